"""What the benchmarks share: turns that are timed, and what a result file says about where it comes from."""

import datetime
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.runtime import files, library

RESULTS = Path(__file__).resolve().parent / "results"


def repeats_of(call: Callable[[], object], at_least: float) -> int:
    """Return how many calls make up ``at_least`` seconds; the first of two calls here warms up."""
    call()
    start = time.perf_counter()
    call()
    return max(1, int(at_least / max(time.perf_counter() - start, 1e-6)))


def batch(call: Callable[[], object], repeats: int) -> float:
    """Return the seconds of one call, over ``repeats`` in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, at_least: float, settle: bool = True) -> dict[str, list[float]]:
    """Return the seconds of each call, by round. In a round everyone has one turn, because a machine's speed drifts.

    A turn is as many calls as make up ``at_least`` seconds, with ``settle`` after one that is not timed, so that nobody pays for the
    dirty cache lines of another.
    """
    repeats = {name: repeats_of(call, at_least) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if settle:
                call()
            times[name].append(batch(call, repeats[name]))
    return times


def processor() -> str:
    """Return the CPU's name, family, model and stepping where the system tells (virtual machines hide the name)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name", platform.machine())
    numbers = [f"{key} {fields[field]}" for key, field in (("family", "cpu family"), ("model", "model")) if field in fields]
    return ", ".join([name, *numbers])


def about(threads: int | None = None, **more: Any) -> dict[str, Any]:
    """Return the head of a result file: date, machine, versions, and whatever else a reader needs to repeat the run."""
    machine = (platform.machine(), f"{threads} threads" if threads else None, library.status().isa)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": ", ".join(part for part in machine if part),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **more,
    }


class Logits(nn.Module):
    """A language model of transformers without a cache: ids [batch, length] -> logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.inner(input_ids, use_cache=False).logits
        return logits


def stacked(axis: Any, bars: Mapping[str, Mapping[str, float]], colors: Mapping[str, str]) -> list[float]:
    """Draw a horizontal bar for each of ``bars`` on a matplotlib axis, its parts side by side in the order of ``colors``; returns their ends."""
    ends = [0.0] * len(bars)
    for part, color in colors.items():
        widths = [parts.get(part, 0.0) for parts in bars.values()]
        axis.barh(list(bars), widths, left=ends, color=color, label=part)
        ends = [a + b for a, b in zip(ends, widths, strict=True)]
    return ends


def write(name: str, content: dict[str, Any]) -> str:
    """Write the result file ``name`` and return its path in the checkout."""
    path = RESULTS / name
    files.write(path, json.dumps(content, indent=1) + "\n")
    return str(path.relative_to(RESULTS.parents[1]))
