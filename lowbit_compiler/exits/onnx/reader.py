"""What reads a file, as far as that decides how codes are stored and shown in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

CODES = ("INT4", "UINT4", "INT8", "UINT8", "INT16", "FLOAT4E2M1", "FLOAT8E4M3FN", "FLOAT8E8M0")
"""The types in which files hold codes: the optimizer may not make floats of them."""


@dataclass(frozen=True)
class Reader:
    """The types that it takes, and where."""

    stored: Mapping[str, tuple[str, int]] = field(default_factory=lambda: {name: (name, 0) for name in CODES})
    """Type of a format's codes -> the type that they are stored in, and what is taken from each first."""
    anywhere: bool = True
    """Whether every operator may read codes; else they are constants that DequantizeLinear alone reads."""
    casts: Mapping[ir.DataType, ir.DataType] = field(default_factory=dict)
    """Types that it does not compute in -> the wider ones that it does."""

    def keeps(self, node: ir.Node) -> bool:
        """Return whether ``node``, which may read constant codes alone, is computed by the reader, not beforehand."""
        codes = any(value is not None and value.is_initializer() and value.dtype in _CODES for value in node.inputs)
        return codes and (self.anywhere or node.op_type == "DequantizeLinear")

    def widen(self, model: ir.Model) -> None:
        """Let what is computed in the types of ``casts`` be computed in those that it takes; in place."""
        for node in model.graph.all_nodes():
            to = node.attributes.get("to") if node.op_type == "Cast" else None
            if to is not None and (dtype := self.casts.get(ir.DataType(to.as_int()))) is not None:
                node.attributes["to"] = ir.AttrInt64("to", int(dtype))
                node.outputs[0].type = ir.TensorType(dtype)


_CODES = frozenset(ir.DataType[name] for name in CODES)
ANY = Reader()
"""All of ONNX."""
