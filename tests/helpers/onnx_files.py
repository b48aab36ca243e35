"""Export a model to a file, open it, and look inside."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from lowbit_compiler.capture.shapes import split_inputs
from lowbit_compiler.exits.onnx.export import export, request_of
from lowbit_compiler.exits.onnx.session import session
from lowbit_compiler.exits.onnx.verify import Verification, compare


class Exported:
    """A model in a file of its own, opened in ONNX Runtime."""

    def __init__(self, folder: Path, model: nn.Module, inputs: Any, *, verify: bool = False, **options: Any) -> None:
        self.path = folder / "model.onnx"
        named = {"recipe": "int8", "dynamic_shapes": None, "opset": 21, "form": "integer"}
        chosen = {name: options.pop(name, default) for name, default in named.items()}
        self.request = request_of(model, inputs, *chosen.values(), options)
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
