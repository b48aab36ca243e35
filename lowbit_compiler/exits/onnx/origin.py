"""What an exported file says of its export, and whether inputs fit it."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from torch import Tensor
from torch.export import Dim

from lowbit_compiler.errors import ExportError, OptionError
from lowbit_compiler.exits.onnx.build import INFO
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.torch_internals import trees


@dataclass(frozen=True)
class Origin:
    """What a file says of its export."""

    recipe: Recipe
    form: str
    opset: int
    options: dict[str, Any]
    """Those of the backend that the export was given, beside the recipe."""
    graph: str
    constants: dict[str, str]
    inputs: list[onnx.ValueInfoProto]

    def require_constants(self, given: dict[str, str]) -> None:
        """Raise OptionError where an argument that is no tensor is another than the one in the file's graph."""
        for name, text in given.items():
            if (stored := self.constants.get(name, text)) != text:
                raise OptionError(f"the file was exported with {name}={stored}, which is part of its graph; got {name}={text}")

    def shapes(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return which sizes of the arguments ``given`` may change in the file; raises OptionError where they do not fit it."""
        tensors = [leaf for leaf in trees.tree_leaves(given) if isinstance(leaf, Tensor)]
        if len(tensors) != len(self.inputs):
            names = ", ".join(value.name for value in self.inputs)
            raise OptionError(f"the file takes {len(self.inputs)} tensors ({names}), inputs hold {len(tensors)}")
        for tensor, value in zip(tensors, self.inputs, strict=True):
            kind = value.type.tensor_type
            want = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
            dtype = ir.DataType(kind.elem_type).numpy()
            fits = len(want) == tensor.dim() and all(isinstance(b, str) or a == b for a, b in zip(tensor.shape, want, strict=True))
            if not fits or str(tensor.dtype) != f"torch.{dtype}":
                got = f"{tensor.dtype} {tuple(tensor.shape)}"
                raise OptionError(f"input {value.name!r} of the file is torch.{dtype} ({', '.join(map(str, want))}), got {got}")
        left = iter(self.inputs)
        return {name: trees.tree_map(lambda leaf: _axes(next(left)) if isinstance(leaf, Tensor) else None, given[name]) for name in given}


def _axes(value: onnx.ValueInfoProto) -> dict[int, Any]:
    return {axis: Dim.AUTO for axis, dim in enumerate(value.type.tensor_type.shape.dim) if dim.dim_param}


def read(path: Path) -> Origin:
    """Return what the file at ``path`` says of its export; raises ExportError where there is none, or not by this lowbit."""
    if not path.is_file():
        raise ExportError(f"there is no file {str(path)!r}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ExportError(f"{str(path)!r} is not a readable ONNX file: {error}") from error
    props = {entry.key: entry.value for entry in model.metadata_props}
    if INFO not in props:
        raise ExportError(f"{str(path)!r} has no {INFO!r} in its metadata: lowbit did not write it")
    try:
        info = json.loads(props[INFO])
        recipe = Recipe(**info["recipe"])
        options = {"ignore": info["ignore"], "buffers": info["buffers"]}
        return Origin(recipe, info["form"], info["opset"], options, info["graph"], info.get("constants", {}), list(model.graph.input))
    except (KeyError, TypeError, ValueError) as error:
        ours = version("lowbit-compiler")
        raise ExportError(
            f"{str(path)!r} was written by lowbit {model.producer_version}, and this is {ours}, which cannot read its {INFO!r}: "
            f"{type(error).__name__}: {error}; export it again"
        ) from error
