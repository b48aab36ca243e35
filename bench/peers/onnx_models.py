"""ONNX Runtime: float32, and int8 by its own dynamic quantization of weights (per channel) and activations."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cached_step
import onnxruntime
import torch
from columns import Case
from tasks import Task


def build(task: Task, case: Case, int8: bool) -> Callable[..., Any]:
    """Export once, keep the result in the folder of caches, and start a session."""
    path = Path(os.environ["BENCH_CACHE"]) / "model.onnx"
    net, inputs = cached_step.explicit(task, case.tokens) if case.kind == "decode" else (task.net, task.inputs)
    if not path.exists():
        _export(net, inputs, path, int8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would go on spinning for a second after each run, into the others' turns.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    first = session.get_outputs()[0].name
    if case.kind == "decode":
        binding = session.io_binding()  # keys and values stay where they are
        for name, x in zip(names, inputs, strict=True):
            binding.bind_cpu_input(name, x.numpy())
        for port in session.get_outputs():
            binding.bind_output(port.name)
        return lambda *_: session.run_with_iobinding(binding)
    return lambda *given: session.run([first], {name: x.numpy() for name, x in zip(names, given, strict=True)})[0]


def _export(net: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, int8: bool) -> None:
    whole = path.with_name("float.onnx") if int8 else path.with_suffix(".part")
    torch.onnx.export(net, inputs, whole, dynamo=True, external_data=False, verbose=False)
    if not int8:
        whole.rename(path)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True)
    whole.unlink()
