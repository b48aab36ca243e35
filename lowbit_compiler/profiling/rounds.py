"""Runs of a compiled model, one after the other: timed by the clock, or recorded by torch's profiler, which makes them slower."""

import time
from collections.abc import Callable
from typing import Any

import torch

from lowbit_compiler.profiling.calls import ROUND, Step, steps


def timed(run: Callable[[], Any], rounds: int, on_gpu: bool) -> list[float]:
    """Return the seconds of each of ``rounds`` calls of ``run``."""
    seconds = []
    for _ in range(rounds):
        _synchronize(on_gpu)
        start = time.perf_counter()
        run()
        _synchronize(on_gpu)
        seconds.append(time.perf_counter() - start)
    return seconds


def recorded(run: Callable[[], Any], rounds: int, on_gpu: bool) -> list[Step]:
    """Return what the profiler recorded of each of ``rounds`` calls of ``run``."""
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(rounds):
            with torch.profiler.record_function(ROUND):
                run()
                _synchronize(on_gpu)
    return steps(profiler, on_gpu)


def _synchronize(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()
