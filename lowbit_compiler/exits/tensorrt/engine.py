"""An ONNX file built into an engine by TensorRT-RTX: ahead of time, on a machine without GPU or driver."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorrt_rtx_bindings as trt

from lowbit_compiler.errors import ExportError, OptionError

Progress = Callable[[str], None]
Shapes = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""The least sizes of an input, those that kernels are chosen for, and the largest."""
_DEVICE = "SM"
VERSION: str = trt.__version__


def devices() -> dict[tuple[int, int], Any]:
    """Return compute capability -> what TensorRT calls it, for all that it builds engines for."""
    members = trt.ComputeCapability.__members__.items()
    numbers = {name.removeprefix(_DEVICE): member for name, member in members if name.startswith(_DEVICE)}
    return {(int(digits[:-1]), int(digits[-1])): member for digits, member in numbers.items()}


def capability(text: Any) -> tuple[int, int]:
    """Return "8.9" as (8, 9); raises OptionError for a device that TensorRT builds no engines for."""
    accepted = {".".join(map(str, each)): each for each in devices()}
    if not isinstance(text, str) or text not in accepted:
        raise OptionError(f"capabilities takes compute capabilities among {', '.join(accepted)}, as strings, got {text!r}")
    return accepted[text]


class _Log(trt.ILogger):  # type: ignore[misc]
    """Keeps what went wrong: TensorRT returns None then, and says the reason here."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message)


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """Passes on which phase of the build begins; an interrupt in Python ends it."""

    def __init__(self, progress: Progress) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress
        self.raised: BaseException | None = None

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        try:
            self._progress(name[:1].lower() + name[1:])
        except BaseException as error:  # it may not pass through TensorRT's own frames
            self.raised = error

    def step_complete(self, name: str, step: int) -> bool:
        return self.raised is None

    def phase_finish(self, name: str) -> None:
        pass


def build(file: Path, capabilities: Sequence[tuple[int, int]], shapes: Mapping[str, Shapes], progress: Progress) -> memoryview:
    """Return the engine of the ONNX ``file`` for devices of ``capabilities``; ``shapes`` are those of inputs whose sizes may change.

    Float products are computed in float32, not in TF32, as torch does by default. Raises ExportError where TensorRT cannot parse or build it.
    """
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    progress("parsing")
    if not parser.parse_from_file(str(file)):
        raise ExportError(f"TensorRT-RTX {VERSION} cannot parse the graph: {_parse_errors(parser)}")
    _let_attention_open(network)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.num_compute_capabilities = len(capabilities)
    for index, each in enumerate(capabilities):
        config.set_compute_capability(devices()[each], index)
    if shapes:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in shapes.items():
            profile.set_shape(name, tuple(least), tuple(best), tuple(most))
        config.add_optimization_profile(profile)
    config.progress_monitor = monitor = _Monitor(progress)
    engine = builder.build_serialized_network(network, config)
    if monitor.raised is not None:
        raise monitor.raised
    if engine is None:
        raise ExportError(f"TensorRT-RTX {VERSION} cannot build the engine: {'; '.join(log.errors) or 'it gives no reason'}")
    return memoryview(engine)


def _let_attention_open(network: Any) -> None:
    """Let attention be its products and softmax where no kernel has it whole, as in float32: else that is an error."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionBoundaryLayer
            layer.attention.decomposable = True


def _parse_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors) or "it gives no reason"
