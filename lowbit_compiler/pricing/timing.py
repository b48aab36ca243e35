"""How every candidate is timed: the same on CPU and GPU, whatever state the caller is in, and remembered; but for what a plan file says."""

import functools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowbit_compiler.pricing import gpu
from lowbit_compiler.runtime.timings import LONG, best
from lowbit_compiler.runtime.timings_file import Seconds, Timings
from lowbit_compiler.torch_internals import autocast


class Timer:
    """Times the candidates of one graph's calls on its device, but for those that a plan file gives."""

    def __init__(self, device: str = "cpu", given: Timings | None = None) -> None:
        self.device = device
        self.asked: dict[str, Seconds] = {}
        """What the graph was decided by: the seconds of each candidate, by call, as a plan file holds them."""
        self._given = given
        self._lacking: set[str] = set()
        self._memory = torch.empty(0, dtype=torch.int8, device="cpu")

    def seconds(
        self, call: str, names: Sequence[str], make: Callable[[], gpu.Calls], size: int | None = None, long: float = LONG
    ) -> dict[str, float]:
        """Return the seconds of one call of each candidate: given or remembered for ``call``, or measured for some ``long`` seconds at most.

        ``make`` returns the candidates by ``names``, and is called where something is to be measured. ``size``: the bytes that a call reads of
        operands that are read in turn (lowbit_compiler/pricing/gpu.py).
        """
        key = gpu.key(call, self.device)
        found = {} if self._given is None else self._given.seconds.get(key, {})
        if not set(names) <= set(found):
            self._lacking.add(key)
            made = functools.cache(lambda: gpu.recorded(make(), self.device, size))

            def run(name: str) -> Callable[[], object]:
                return lambda: made()[name]()

            clock = None if self.device == "cpu" else time.perf_counter  # what a GPU does is no time of this thread's
            # Autograd and autocast are the caller's state at compile time, not the compiled graph's.
            with torch.no_grad(), autocast.disabled():
                found = best(key, {name: run(name) for name in names}, long, clock)
        self.asked[key] = {name: found[name] for name in names}
        return {name: found[name] / gpu.calls(self.device, size) for name in names}

    def memory(self, size: int) -> Tensor:
        """Return ``size`` bytes on the device, of any value. On a CPU the next call gets them again: new ones take longer than what is timed."""
        if self.device != "cpu":
            return torch.empty(size, dtype=torch.int8, device=self.device)
        if self._memory.numel() < size:
            self._memory = torch.empty(size, dtype=torch.int8, device="cpu")
        return self._memory[:size]

    def notes(self) -> list[str]:
        """Return what the graph's report says of the plan file: where its times are from, and what it lacked."""
        if self._given is None or not self.asked:
            return []
        notes = []
        if differences := self._given.differences():
            notes.append(f"the times in {self._given.path} were measured on another machine: {differences}")
        if self._lacking:
            notes.append(f"{len(self._lacking)} of {len(self.asked)} timed calls are not in {self._given.path}, and were timed here")
        return notes
