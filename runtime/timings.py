"""Times candidates on this machine, and remembers the results on disk: what the planner's "slower here" rests on.

One JSON file for each machine state (CPU, instruction sets in use, library, torch, threads) under $XDG_CACHE_HOME/lowbit. A file that does
not hold timings of this machine is renamed to ``<file>.bad``, with a warning, and its timings are measured again; what cannot be written is
kept in memory.
"""

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import platform
import stat
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lowbit_compiler.runtime import cuda_library, files, library

log = logging.getLogger("lowbit_compiler")
FORMAT = 1
BUDGET = 0.02  # seconds for each candidate, and ...
ROUNDS = (15, 100)  # at least, at most; but at least FEW ...
FEW, LONG = 3, 0.3  # where those take this many seconds
HOPELESS = 4.0  # slower than the best by this factor: measured no further
WAIT = 1e-3  # seconds; some 20 microseconds are enough on a quiet machine
STALE = 60.0  # seconds; a file beside ours that is older was left by a process that was killed
MOST_BYTES = 1 << 24  # of a file: thousands of models have less
LEAST = 1e-9  # seconds; a clock that does not advance says no more
BAD = ".bad"
NOISE = 2.0  # median to fastest round: above, something else was running

Seconds = dict[str, float]
_known: dict[Path | int, dict[str, Seconds]] = {}  # by file, or by threads where there can be none
_in_the_way: set[Path] = set()  # files that could be neither used nor set aside


def best(key: str, candidates: dict[str, Callable[[], object]], long: float = LONG) -> Seconds:
    """Return the seconds of one call of each candidate, remembered under ``key`` or measured now, for some ``long`` seconds at most."""
    path = _file_or_none()
    here = _known.setdefault(path or torch.get_num_threads(), {})
    if path is not None and set(here.get(key, ())) != set(candidates):
        here.update(_read(path))
    if set(here.get(key, ())) != set(candidates):
        calm = quiet()
        with contextlib.nullcontext() if calm else _one_thread():
            times = measure(candidates, long=long)
        here[key] = {name: max(min(seconds), LEAST) for name, seconds in times.items()}
        if path is not None and calm and steady(times) and quiet():
            _write(path, key, here[key])
    return dict(here[key])


def known() -> dict[Any, dict[str, Seconds]]:
    """Return what this process knows, for ``learn`` in another."""
    return _known


def learn(of: dict[Any, dict[str, Seconds]]) -> None:
    """Add what another process knows."""
    for place, seconds in of.items():
        _known.setdefault(place, {}).update(seconds)


def steady(times: dict[str, list[float]]) -> bool:
    """Return whether the rounds agree; what was measured on a busy machine is used now, and not remembered on disk."""
    return all(statistics.median(seconds) <= NOISE * min(seconds) for seconds in times.values())


def quiet() -> bool:
    """Return whether all threads are there at once: where one must wait for its turn, the smallest parallel call takes milliseconds."""
    x = torch.zeros(1 << 17, device="cpu")
    return min(min(seconds) for seconds in measure({"add": lambda: x + x}).values()) < WAIT


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let calls run on this thread alone: it waits for no other, so the ratios of times still mean something on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    candidates: dict[str, Callable[[], object]], clock: Callable[[], float] = time.perf_counter, long: float = LONG
) -> dict[str, list[float]]:
    """Return the seconds of each candidate in interleaved rounds, after one that warms up.

    The fastest round of each is what counts: the others tell how busy the machine was.
    """
    for call in candidates.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    spent, running = 0.0, list(candidates)
    for turn in range(1, ROUNDS[1] + 1):
        for name in running:
            start = clock()
            candidates[name]()
            times[name].append(clock() - start)
            spent += times[name][-1]
        if turn == FEW:
            fastest = min(map(min, times.values()))
            running = [name for name in running if min(times[name]) <= HOPELESS * fastest]
        enough = turn >= ROUNDS[0] and spent > BUDGET * len(candidates)
        if turn >= FEW and (len(running) < 2 or spent > long or enough):
            break
    return times


def machine() -> dict[str, Any]:
    """Return what the timings depend on."""
    status, cuda = library.status(), cuda_library.status()
    file = status.path.stat() if status.path is not None else None
    gpu = {"cuda library": [cuda.path.stat().st_mtime_ns, cuda.path.stat().st_size]} if cuda.path is not None else {}
    return gpu | {
        "format": FORMAT,
        "cpu": _cpu(),
        "isa": list(status.active),
        "library": None if file is None else [file.st_mtime_ns, file.st_size],
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }


def cache_file() -> Path:
    """Return the file for this machine as it is now; it need not exist.

    Raises:
        OSError: the library's file has gone.
        RuntimeError: nothing says where the home directory is.
    """
    digest = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lowbit" / f"timings-{digest}.json"


def _file_or_none() -> Path | None:
    try:
        return cache_file()
    except (OSError, RuntimeError):
        return None


@functools.cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return next(names, platform.processor() or platform.machine())


def _read(path: Path) -> dict[str, Seconds]:
    """Return what the file holds for this machine; a file that is damaged, foreign or not to be read is set aside."""
    try:
        return _parsed(_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        _set_aside(path, error)
        return {}


def _text(path: Path) -> str:
    """Return the text of a regular file: a FIFO is not waited for, and nothing endless is read."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            raise ValueError(f"no regular file of at most {MOST_BYTES >> 20} MB")
        return os.read(descriptor, MOST_BYTES).decode()
    finally:
        os.close(descriptor)


def _parsed(text: str) -> dict[str, Seconds]:
    stored = json.loads(text)
    if stored["machine"] != machine():
        raise ValueError("timings of another machine")
    found = {str(key): {str(name): float(s) for name, s in seconds.items()} for key, seconds in stored["seconds"].items()}
    if not all(0 < s < math.inf for seconds in found.values() for s in seconds.values()):
        raise ValueError("a time that is no finite number of seconds above 0")
    return found


def _set_aside(path: Path, error: Exception) -> None:
    """Rename a file that cannot be used, so that there is one warning and not one for each timing."""
    aside = path.with_name(path.name + BAD)
    try:
        path.replace(aside)
        what = f"it is set aside as {aside.name!r}"
    except OSError as why:
        if path in _in_the_way:
            return
        _in_the_way.add(path)
        what = f"it stays, because it cannot be renamed ({why})"
    log.warning("the timings in %s cannot be used (%s: %s): %s, and measured again", path, type(error).__name__, str(error)[:200], what)


def _write(path: Path, key: str, seconds: Seconds) -> None:
    """Add one entry to the file."""
    with contextlib.suppress(OSError):
        files.write(path, json.dumps({"machine": machine(), "seconds": {**_read(path), key: seconds}}, indent=1))
        for old in path.parent.glob(f"{files.PREFIX}timings-*.json.*"):
            if time.time() - old.stat().st_mtime > STALE:
                old.unlink()
