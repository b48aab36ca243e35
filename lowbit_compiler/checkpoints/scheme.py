"""How the weight of one linear is stored: operand, treatment, and the tensors of that in a state dict."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.runtime import ops
from lowbit_compiler.runtime.formats import SPELLED, Operand
from lowbit_compiler.runtime.formats.operand import argument_names
from lowbit_compiler.runtime.reference.dense import pack_codes, row_bytes
from lowbit_compiler.runtime.treatments import TREATMENTS, Treatment
from lowbit_compiler.runtime.treatments.treatment import at_once
from lowbit_compiler.runtime.weights import trim

WEIGHT = "weight"
"""The codes: of 8 bits or more as they are, of fewer side by side in bytes (runtime/reference/dense.py)."""
WHOLE = 8
"""From so many bits on codes are stored as they are."""
CHUNK = 1 << 18
"""Elements of a weight that are float32 at a time."""
assert ops.LIBRARY


@dataclass(frozen=True)
class Scheme:
    """The weight [N, K] of a linear in ``operand``, after ``treatment``; ``bits``: in how many products read it, where that was switched."""

    operand: Operand
    treatment: Treatment
    bits: int | None = None

    def padded(self, k: int) -> int:
        """Return the columns that ``k`` become by the treatment."""
        return int(self.treatment.weight(at_once, torch.empty(1, k, device="meta")).shape[1])

    def tensors(self, n: int, k: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return name, shape and dtype of what a weight [n, k] is stored as, in the order of the operand's parts."""
        columns = self.padded(k)
        codes, *others = self.operand.parts
        shape, dtype = ((n, row_bytes(columns, self._dense)), torch.uint8) if self._dense else ((n, columns), codes.dtype)
        count = self.operand.scale.count(columns)
        return {WEIGHT: (shape, dtype), **{f"{WEIGHT}_{part.name}": (part.shape((n, columns), count), part.dtype) for part in others}}

    def divides(self, k: int, parts: int) -> bool:
        """Return whether a weight of ``k`` columns, cut into ``parts`` of equally many, is weights in this scheme side by side."""
        each = k // parts
        aligned = each % self.operand.scale.block(each) == 0 and self.padded(each) == each if each else False
        return aligned and each * parts == k and (each % WHOLE == 0 or not self._dense)

    def columns(self, held: int) -> int:
        """Return the columns of codes that are stored in rows of ``held`` numbers."""
        return held * WHOLE // self._dense if self._dense else held

    def store(self, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the tensors of ``parts``."""
        codes, *others = parts
        dense = pack_codes(codes, self._dense) if self._dense else codes
        return dict(zip(self._names, (dense, *others), strict=True))

    def parts(self, tensors: Mapping[str, Tensor], k: int) -> tuple[Tensor, ...]:
        """Invert :meth:`store` for a weight [N, ``k``]."""
        codes, *others = (tensors[name] for name in self._names)
        if self._dense:
            codes = torch.ops.lowbit.unpack_codes.default(codes, self._dense, self.operand.format.grid.dtype.is_signed, self.padded(k))
        return codes, *others

    def quantize(self, n: int, k: int, rows: Callable[[int, int], Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a float weight [n, k], rounded to nearest; ``rows(start, stop)`` are some of its rows, a few at a time."""
        step = max(CHUNK // max(k, 1), 1) if self.operand.scale.row_local else max(n, 1)
        made: dict[str, Tensor] = {}
        for start in range(0, max(n, 1), step):
            treated = self.treatment.weight(at_once, rows(start, min(start + step, n)).detach().float())
            part = self.store(self.operand.quantize(treated))
            if n <= step:
                return part
            made = made or {name: tensor.new_empty((n, *tensor.shape[1:])) for name, tensor in part.items()}
            for name, tensor in part.items():
                made[name][start : start + len(tensor)] = tensor
        trim()
        return made

    @property
    def _names(self) -> list[str]:
        return [WEIGHT, *(f"{WEIGHT}_{part.name}" for part in self.operand.parts[1:])]

    @property
    def _dense(self) -> int:
        """The bits of a code where they lie side by side, else 0."""
        bits = self.operand.format.grid.bits
        return bits if bits < WHOLE else 0

    def spelled(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        said = {"weights": self.operand.spelling, "arguments": list(self.operand.arguments), "treatment": self.treatment.name}
        return said if self.bits is None else {**said, "bits": self.bits}


def read(said: Any) -> Scheme:
    """Return the scheme that ``said`` spells, which may come from anywhere; raises CheckpointError for what is none."""
    if not isinstance(said, Mapping):
        raise CheckpointError(f"a scheme is an object with weights, arguments and treatment, got {said!r}")
    name, given, treatment, bits = (said.get(key) for key in ("weights", "arguments", "treatment", "bits"))
    if not isinstance(name, str) or name not in SPELLED:
        raise CheckpointError(f"weights takes one of {', '.join(SPELLED)}, got {name!r}")
    if not isinstance(treatment, str) or treatment not in TREATMENTS:
        raise CheckpointError(f"treatment takes one of {', '.join(TREATMENTS)}, got {treatment!r}")
    format, scale = SPELLED[name]
    names = [*argument_names(format.schema), *argument_names(scale.schema)]
    if not isinstance(given, list) or len(given) != len(names) or not all(type(number) is int for number in given):
        raise CheckpointError(f"arguments of {name} takes integers for {', '.join(names) or 'nothing'}, got {given!r}")
    if scale.sizes and given[-1] not in scale.sizes:
        raise CheckpointError(f"{names[-1]} of {name} takes one of {scale.sizes}, got {given[-1]}")
    if bits is not None and (type(bits) is not int or bits not in format.widths):
        raise CheckpointError(f"bits of {name} takes {' or '.join(map(str, format.widths)) or 'nothing'}, got {bits!r}")
    try:
        return Scheme(Operand.of(format, scale, dict(zip(names, given, strict=True))), TREATMENTS[treatment](), bits)
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from error
