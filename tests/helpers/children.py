"""Calls that may take the process with them, made in a child process."""

import os
import signal
from collections.abc import Callable, Mapping

import torch


def outcomes(calls: Mapping[str, Callable[[], object]], seconds: int = 120) -> dict[str, str]:
    """Return what became of each call: "returned", the text of its error, or the signal that ended the child in it.

    All calls are made in one child; those after a signal are missing. A child that hangs is forked once more: a thread of this process may
    have held a lock when it forked (AddressSanitizer's allocator, for one, has no handler for that), and in the child nobody gives it back. A
    call that hangs does so twice.
    """
    got = _in_child(calls, seconds)
    return _in_child(calls, seconds) if list(got.values())[-1:] == [f"signal {int(signal.SIGALRM)}"] else got


def _in_child(calls: Mapping[str, Callable[[], object]], seconds: int) -> dict[str, str]:
    """Fork, and make the calls there."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        signal.alarm(seconds)
        torch.set_num_threads(1)  # a forked child has none of its parent's threads
        with os.fdopen(writes, "w") as results:
            for name, call in calls.items():
                results.write(f"{name}\0")
                results.flush()
                try:
                    call()
                    text = "returned"
                except Exception as error:
                    text = f"{type(error).__name__}: {error}"
                results.write(f"{text}\0")
                results.flush()
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, errors="replace") as results:
        parts = results.read().split("\0")[:-1]
    status = os.waitpid(child, 0)[1]
    if len(parts) % 2:
        parts.append(f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}")
    return dict(zip(parts[::2], parts[1::2], strict=True))
