"""Times candidates on this machine, and remembers the results on disk: what the planner's "slower here" rests on.

One file (runtime/timings_file.py) for each machine state (CPU, instruction sets in use, library, torch, threads) under $XDG_CACHE_HOME/lowbit.
One that does not hold timings of this machine is renamed to ``<file>.bad``, with a warning, and its timings are measured again; what cannot
be written is kept in memory.
"""

import contextlib
import hashlib
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lowbit_compiler.runtime import files
from lowbit_compiler.runtime.timings_file import Seconds, machine, read, text

log = logging.getLogger("lowbit_compiler")
BUDGET = 0.02  # seconds for each candidate that is left, and ...
ROUNDS = (15, 100)  # at least, at most; but at least FEW ...
FEW, LONG = 4, 0.3  # where those take this many seconds
SLOWER = 1.5  # over the number of rounds: by what share a candidate that is measured no further is slower, a tenth after 15 rounds
WAIT = 1e-3  # seconds; some 20 microseconds are enough on a quiet machine
STALE = 60.0  # seconds; a file beside ours that is older was left by a process that was killed
LEAST = 1e-9  # seconds; a clock that does not advance says no more
FINE = 1e-6  # seconds that a clock must tell apart
BAD = ".bad"
NOISE = 2.0  # median to fastest round: above, something else was running

Clock = Callable[[], float]
_known: dict[Path | int, dict[str, Seconds]] = {}  # by file, or by threads where there can be none
_in_the_way: set[Path] = set()  # files that could be neither used nor set aside


def best(key: str, candidates: dict[str, Callable[[], object]], long: float = LONG, clock: Clock | None = None) -> Seconds:
    """Return the seconds of one call of each candidate, remembered under ``key`` or measured now, for some ``long`` seconds at most.

    ``clock``: None where this thread and those it calls do the work.
    """
    path = _file_or_none()
    here = _known.setdefault(path or torch.get_num_threads(), {})
    if path is not None and set(here.get(key, ())) != set(candidates):
        here.update(_read(path))
    if set(here.get(key, ())) != set(candidates):
        calm = quiet()
        with contextlib.nullcontext() if calm else _one_thread():
            times = measure(candidates, clock=clock or _clock(), long=long)
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


def _clock() -> Clock:
    """Return the clock of a thread that works alone, which stands still while others have its core; of several threads, everybody's."""
    alone = torch.get_num_threads() == 1 and time.get_clock_info("thread_time").resolution <= FINE
    return time.thread_time if alone else time.perf_counter


def measure(
    candidates: dict[str, Callable[[], object]],
    clock: Clock = time.perf_counter,
    long: float = LONG,
    slower: float = SLOWER,
) -> dict[str, list[float]]:
    """Return the seconds of each candidate in interleaved rounds, after one that warms up.

    The fastest round of each is what counts: the others tell how busy the machine was. A candidate that is clearly slower than the fastest
    is measured no further, and rounds are for those that are left (``slower`` of math.inf: all are, as in a comparison for its own sake).
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
        if turn < FEW:
            continue
        # Beyond its spread: with few rounds the fastest of a candidate may yet be far from what it can do.
        fastest = min((times[name] for name in running), key=min)
        limit = (1 + slower / turn) * statistics.median(fastest)
        running = [name for name in running if min(times[name]) <= limit]
        if len(running) < 2 or spent > long or (turn >= ROUNDS[0] and spent > BUDGET * len(running)):
            break
    return times


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


def _read(path: Path) -> dict[str, Seconds]:
    """Return what the file holds for this machine; a file that is damaged, foreign or not to be read is set aside."""
    try:
        found = read(path)
        if found.machine != machine():
            raise ValueError("timings of another machine")
        return found.seconds
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        _set_aside(path, error)
        return {}


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
        files.write(path, text({**_read(path), key: seconds}))
        for old in path.parent.glob(f"{files.PREFIX}timings-*.json.*"):
            if time.time() - old.stat().st_mtime > STALE:
                old.unlink()
