"""ONNX Runtime set so that it computes what a file says."""

import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ACCURACY = "session.qdq_matmulnbits_accuracy_level"
"""By default (4) ONNX Runtime quantizes the float operand of a product with a dequantized weight; 1 keeps it float32."""
PRECISION = "session.x64quantprecision"
"""Without VNNI, uint8 x int8 sums saturate at 16 bits (onnxruntime#6004, #12088); 1 takes exact, slower products there."""
FOLDER = "session.model_external_initializers_file_folder_path"
"""Where the data of a model that is opened from bytes lies."""


def session(model: str | Path | bytes, threads: int | None = None, **settings: str) -> ort.InferenceSession:
    """Open an ONNX file, or its bytes, on the CPU; ``settings`` are entries of the session's configuration and override ours.

    Weight-only products keep float activations, and integer products are exact also on processors where they would saturate.
    """
    exact = {ACCURACY: "1", **({PRECISION: "1"} if saturates() else {})}
    return _open(model if isinstance(model, bytes) else str(model), threads, {**exact, **settings})


def _open(model: str | bytes, threads: int | None, settings: dict[str, str]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@functools.cache
def saturates() -> bool:
    """Return whether MatMulInteger of uint8 and int8 is inexact here, by trying the largest operands."""
    k, n = 64, 16
    codes, weight = np.full((4, k), 255, np.uint8), np.full((k, n), 127, np.int8)
    node = helper.make_node("MatMulInteger", ["codes", "weight"], ["sums"])
    given = helper.make_tensor_value_info("codes", TensorProto.UINT8, [4, k])
    result = helper.make_tensor_value_info("sums", TensorProto.INT32, [4, n])
    graph = helper.make_graph([node], "probe", [given], [result], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    (sums,) = _open(model.SerializeToString(), 1, {}).run(None, {"codes": codes})
    return bool((sums != k * 255 * 127).any())
