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
    parts: bool = True
    """Whether the last block of a row, which shares a scale, may be shorter than the others."""
    casts: Mapping[ir.DataType, ir.DataType] = field(default_factory=dict)
    """Types that it does not compute in -> the wider ones that it does."""

    def folds(self, node: ir.Node) -> bool | None:
        """Return whether ``node`` is computed beforehand, where all that it reads is constant: None where that is no matter of codes."""
        if not any(value is not None and value.is_initializer() and value.dtype in _CODES for value in node.inputs):
            return None
        return not (self.anywhere or node.op_type == "DequantizeLinear")

    def widen(self, model: ir.Model) -> None:
        """Let what is computed in the types of ``casts`` be computed in those that it takes; in place. Codes before and after Q/DQ stay."""
        for value in model.graph.initializers.values():
            stored, dtype = value.const_value, self._wider(value)
            if stored is not None and dtype is not None and not any(use.node.op_type in QUANTIZERS for use in value.uses()):
                value.const_value = ir.tensor(stored.numpy().astype(dtype.numpy()), name=value.name)
                value.type = ir.TensorType(dtype)
        for node in model.graph.all_nodes():
            if node.op_type == "Cast" and (dtype := self.casts.get(ir.DataType(node.attributes["to"].as_int()))) is not None:
                node.attributes["to"] = ir.AttrInt64("to", int(dtype))
            for value in node.outputs:
                if (dtype := self._wider(value)) is not None and node.op_type not in QUANTIZERS:
                    value.type = ir.TensorType(dtype)

    def _wider(self, value: ir.Value) -> ir.DataType | None:
        return None if value.dtype is None else self.casts.get(value.dtype)


QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_CODES = frozenset(ir.DataType[name] for name in CODES)
ANY = Reader()
"""All of ONNX."""
