"""What torch's profiler recorded of one step: the calls of lowbit's ops, of torch's own, and Inductor's kernels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowbit_compiler.torch_internals.profiler import DeviceType, roots, tensors

ROUND = "lowbit::profiled_step"
KERNELS = ("cpp_fused", "triton_", "cpp_CppMicroGemm")

Key = tuple[str, int, tuple[int, ...]]
"""What tells calls apart that may come in any order: the op, the address of its packed weight (0 without), and the shape of its rows."""


@dataclass(frozen=True)
class Call:
    """One call, not of anything below it."""

    name: str
    seconds: float
    key: Key | None = None


@dataclass(frozen=True)
class Step:
    """One run of the model, with its calls in the order of time."""

    seconds: float
    calls: tuple[Call, ...]


def steps(profiler: Any, on_device: bool = False) -> list[Step]:
    """Return the steps that a finished ``torch.profiler.profile`` with shapes recorded.

    On a GPU a call takes the time of the kernels it started, and kernels that no op started (Triton's) are calls of their own.
    """
    kernel_seconds, stray = _device_times(profiler) if on_device else ({}, {})
    result = []
    for root in _named(roots(profiler), ROUND):
        calls = tuple(_calls(root.children, kernel_seconds if on_device else None))
        result.append(Step(root.duration_time_ns / 1e9, calls))
    if stray and result:
        result = [Step(s.seconds, (*s.calls, *(Call(name, t / len(result)) for name, t in stray.items()))) for s in result]
    return result


def _named(events: Sequence[Any], name: str) -> Iterator[Any]:
    for event in events:
        if event.name == name:
            yield event
        else:
            yield from _named(event.children, name)


def _calls(events: Sequence[Any], kernel_seconds: Mapping[int, float] | None) -> Iterator[Call]:
    for event in events:
        ours = event.name.startswith("lowbit::")
        kernel = any(part in event.name for part in KERNELS)
        if ours or kernel or event.name.startswith("aten::"):
            seconds = event.duration_time_ns / 1e9 if kernel_seconds is None else kernel_seconds.get(event.correlation_id, 0.0)
            yield Call(_short(event.name) if kernel else event.name, seconds, _key(event) if ours else None)
        else:
            yield from _calls(event.children, kernel_seconds)


def _short(name: str) -> str:
    """Return the name of an Inductor kernel without that of its graph."""
    prefix, found, rest = name.partition("cpp_")
    return found + rest if found and prefix.startswith("graph_") else name


def _key(event: Any) -> Key | None:
    given = tensors(event, 2)
    if not given:
        return None
    weights = event.name.startswith(("lowbit::linear_", "lowbit::chain")) and len(given) == 2
    return event.name, given[1][1] if weights else 0, given[0][0]


def _device_times(profiler: Any) -> tuple[dict[int, float], dict[str, float]]:
    """Return the kernel seconds of every op by its correlation number, and those of kernels without an op by name."""
    events = profiler.events()
    by_op = {event.id: event.device_time_total / 1e6 for event in events if event.device_type == DeviceType.CPU}
    started = {kernel.name for event in events if event.device_type == DeviceType.CPU for kernel in event.kernels}
    stray: dict[str, float] = {}
    for event in events:
        if event.device_type == DeviceType.CUDA and event.name not in started and event.name != ROUND:
            stray[event.name] = stray.get(event.name, 0.0) + event.time_range.elapsed_us() / 1e6
    return by_op, stray
