"""Export a model to a file, open it, and look inside."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from helpers import bounds
from lowbit_compiler.capture.shapes import split_inputs
from lowbit_compiler.exits.onnx.export import export, request_of
from lowbit_compiler.exits.onnx.reader import ANY, Reader
from lowbit_compiler.exits.onnx.session import session
from lowbit_compiler.exits.onnx.verify import Verification, compare
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.treatments.treatment import at_once


@pytest.fixture(autouse=True, scope="session")
def one_library() -> Iterator[None]:
    """torch's exporter reads source and signatures of all its translations anew at each export, a second every time; here once."""
    from torch.onnx._internal._lazy_import import onnxscript_apis
    from torch.onnx._internal.exporter import _schemas

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxscript_apis, "get_torchlib_ops", functools.cache(onnxscript_apis.get_torchlib_ops), raising=False)
        patch.setattr(_schemas, "op_signature_from_function", functools.cache(_schemas.op_signature_from_function))
        yield


class Exported:
    """A model in a file of its own, opened in ONNX Runtime."""

    def __init__(self, folder: Path, model: nn.Module, inputs: Any, *, verify: bool = False, reader: Reader = ANY, **options: Any) -> None:
        self.path = folder / "model.onnx"
        named = {"recipe": "int8", "dynamic_shapes": None, "opset": 21, "form": "integer"}
        chosen = {name: options.pop(name, default) for name, default in named.items()}
        self.request = replace(request_of(model, inputs, *chosen.values(), options), reader=reader)
        self.built = export(self.request, self.path, verify, lambda stage: None)
        self.report = self.built.report
        self.proto = onnx.load(str(self.path))
        self._session: ort.InferenceSession | None = None

    def agreement(self, inputs: Any) -> Verification:
        """Compare the file with PyTorch on other inputs."""
        args, kwargs = split_inputs(self.request.model, inputs)
        return compare(self.path, self.built, replace(self.request, args=args, kwargs=kwargs))

    def run(self, *inputs: Tensor) -> list[Tensor]:
        """Run the file; inputs in its order."""
        self._session = self._session or session(self.path)
        names = [given.name for given in self._session.get_inputs()]
        feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(value) for value in self._session.run(None, feeds)]

    def values(self, *inputs: Tensor, operators: tuple[str, ...]) -> dict[str, list[Tensor]]:
        """Return the first results of every node of these operators, in the order of the graph."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        found = [(node.op_type, node.output[0]) for node in proto.graph.node if node.op_type in operators]
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(name for _, name in found))
        copy = self.path.with_name("values.onnx")
        onnx.save(proto, str(copy))
        running = session(copy)
        feeds = {given.name: value.numpy() for given, value in zip(running.get_inputs(), inputs, strict=True)}
        results = dict(zip((result.name for result in running.get_outputs()), running.run(None, feeds), strict=True))
        values: dict[str, list[Tensor]] = {operator: [] for operator in operators}
        for operator, name in found:
            values[operator].append(torch.from_numpy(results[name]))
        return values

    def metadata(self, key: str) -> list[str]:
        """Return what the nodes say under ``key``, each text once."""
        return list(dict.fromkeys(entry.value for node in self.proto.graph.node for entry in node.metadata_props if entry.key == key))

    def stored(self) -> dict[str, onnx.TensorProto]:
        """Return the stored tensors by name."""
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}


def stored_values(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    """Return the values of a stored tensor; 4 bits as a byte."""
    values = onnx.numpy_helper.to_array(tensor)
    bytes_of = {onnx.TensorProto.INT4: np.int8, onnx.TensorProto.UINT4: np.uint8}
    return values.astype(bytes_of.get(tensor.data_type, values.dtype))


def check_values(recipe: Recipe, layer: nn.Linear, x: Tensor, got: Tensor, weight_error: float | Tensor = 0.0) -> None:
    """What torch quantizes, multiplied in float32 in some order, by weights that are off by ``weight_error`` [N, K] at most."""
    plan = recipe.plan
    with torch.no_grad():
        parts = plan.w.quantize(plan.treatment.weight(at_once, layer.weight))
        kept, exact = plan.treatment.activation(at_once, x)
        low = kept if plan.x is None else plan.x.dequantize(plan.x.quantize(kept))
        weight = plan.w.dequantize(parts).double()
        y, bound = bounds.linear_float(low, weight, layer.bias, torch.float32)
        if exact is not None:
            more, beside = bounds.linear_float(exact, weight, None, torch.float32)
            y, bound = y + more, bound + beside + 2 * bounds.EPS * (y.abs() + more.abs())
    bounds.assert_within(got, y, bound + low.abs().double() @ torch.as_tensor(weight_error).expand_as(weight).double().T)
