"""OpenVINO on the CPU in bfloat16, with float weights or with int8 ones that nncf compresses; a cache becomes the model's state."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cached_step
import numpy as np
import openvino as ov
import torch
from columns import Case
from contestants import ISA
from tasks import ROOM, Task
from torch import Tensor


def build(task: Task, case: Case, weights: str | None) -> Callable[..., Any]:
    """Convert once, keep the result in the folder of caches, and compile it."""
    folder = Path(os.environ["BENCH_CACHE"])
    path = folder / "model.xml"
    if not path.exists():
        ov.save_model(_converted(task, case, weights), path, compress_to_fp16=False)
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if ISA == "avx2" else "bf16",  # held to AVX2 it refuses bfloat16
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "CACHE_DIR": str(folder / "openvino"),
    }
    compiled = ov.Core().compile_model(path, "CPU", options)
    request = compiled.create_infer_request()
    if case.kind == "decode":
        return _Decode(request, *cached_step.explicit(task, case.tokens - ROOM + 1)[1])

    def run(*inputs: Tensor) -> np.ndarray[Any, Any]:
        results: Any = request.infer([x.numpy() for x in inputs], share_inputs=True, share_outputs=True)
        found: np.ndarray[Any, Any] = results[0]
        return found

    return run


def _converted(task: Task, case: Case, weights: str | None) -> Any:
    if case.kind == "decode":
        model = _stateful(task, case)
    else:
        model = ov.convert_model(torch.export.export(task.net, task.inputs))  # tracing leaves operators that OpenVINO lacks
    if weights is not None:
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    return model


def _stateful(task: Task, case: Case) -> Any:
    from openvino._offline_transformations import apply_make_stateful_transformation

    step, inputs = cached_step.explicit(task, case.tokens)
    model = ov.convert_model(step, example_input=inputs)
    count = (len(inputs) - 2) // 2
    before, after = cached_step.names(count, "past"), cached_step.names(count, "present")
    for port, name in zip(model.inputs, ["ids", "position", *before], strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, ["logits", *after], strict=True):
        port.get_tensor().set_names({name})
    heads, width = inputs[2].shape[1], inputs[2].shape[3]
    model.reshape({"ids": [1, 1], "position": [1, 1], **{name: [1, heads, -1, width] for name in before}})
    apply_make_stateful_transformation(model, dict(zip(before, after, strict=True)))
    return model


class _Decode:
    """A request whose state is the cache."""

    def __init__(self, request: Any, ids: Tensor, position: Tensor, *past: Tensor) -> None:
        self.request = request
        self.ids, self.start = ids.numpy(), int(position)
        count = len(past) // 2
        self.past = dict(zip(cached_step.names(count, "past"), (t.numpy() for t in past), strict=True))
        self.rewind()

    def rewind(self) -> None:
        """Set the state to what it was before the first step."""
        self.position = np.array([[self.start]])
        for state in self.request.query_state():
            name = next(key for key in self.past if state.name.startswith(key))
            state.state = ov.Tensor(self.past[name])

    def __call__(self, *_: object) -> object:
        """Take one step."""
        results = self.request.infer([self.ids, self.position], share_inputs=True, share_outputs=True)
        self.position = self.position + 1
        return results[0]
