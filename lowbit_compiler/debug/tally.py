"""One product against the float64 product of the same operands, added up over calls."""

import math
import sys
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowbit_compiler.debug.certificate import Activations, Weights, bound, distance
from lowbit_compiler.report import Measured
from lowbit_compiler.runtime.products import Plan, Stored
from lowbit_compiler.torch_internals import autocast

AT_ONCE = 1 << 22
"""Elements of the output and of the weight that are looked at together: their float64 temporaries take some 200 MB."""


@dataclass
class Tally:
    """What the calls of one site showed so far."""

    signal: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    power: float = 0.0
    error: float = 0.0
    bound: float = 0.0
    tightness: float = 0.0
    weight_tightness: float = 0.0
    exact: int = 0
    elements: int = 0
    activation_scales: list[Tensor] = field(default_factory=list)
    weight_scales: Tensor | None = None

    def add(self, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, stored: Stored, got: Tensor) -> None:
        """Compare ``got`` [..., N] with ``x`` [..., K] times ``weight`` [N, K] plus ``bias`` [N], and ``stored`` with ``weight``."""
        with autocast.disabled():
            self._add(x.reshape(-1, x.shape[-1]), weight, bias, plan, stored, got.reshape(-1, got.shape[-1]))

    def _add(self, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, stored: Stored, got: Tensor) -> None:
        if not got.numel():
            return
        inputs = Activations.of(x, plan)
        wide = x.double()
        self.exact += int(inputs.count.sum())
        self.elements += x.numel()
        self.activation_scales.append(inputs.scale.flatten())
        scales = []
        low = plan.w.dequantize(plan.parts(stored, *weight.shape))
        columns = max(AT_ONCE // max(x.shape), 1) if plan.w.scale.row_local else len(weight)  # else scales depend on every row
        for start in range(0, len(weight), columns):
            rows = slice(start, start + columns)
            part = weight[rows]
            offset = None if bias is None else bias[rows]
            w = Weights.of(part, plan)
            scales.append(w.scale.flatten())
            self.weight_tightness = max(self.weight_tightness, distance(w, low[rows]))
            y = wide @ part.double().t()
            y = y if offset is None else y + offset.double()
            self._compare(got[:, rows], y, bound(inputs, w, offset, y, got.dtype))
        self.weight_scales = torch.cat(scales)

    def _compare(self, got: Tensor, y: Tensor, limit: Tensor) -> None:
        fine = torch.isfinite(y) & torch.isfinite(limit)  # NaN and Inf that the float product has too are no error
        y, limit, given = y[fine], limit[fine], got.double()[fine]
        if not y.numel():
            return
        error = (given - y).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
        self.signal += float(y.square().sum())
        self.noise += float(error.square().sum())
        self.dot += float(given @ y)
        self.power += float(given.square().sum())
        self.error = max(self.error, float(error.max()))
        self.bound = max(self.bound, float(limit.max()))
        self.tightness = max(self.tightness, float((error / limit).max()))

    def measured(self, effect: float | None = None) -> Measured:
        """Return the row of the report; ``effect`` is what the whole model says."""
        if not self.elements:
            return Measured(effect=effect)
        scales = torch.cat(self.activation_scales)
        cosine = self.dot / (self.signal * self.power) ** 0.5 if self.signal and self.power else math.nan
        return Measured(
            sqnr=10 * math.log10(self.signal / self.noise) if 0 < self.noise < math.inf and self.signal else None,
            cosine=cosine if math.isfinite(cosine) else None,
            error=finite(self.error),
            bound=self.bound,
            tightness=finite(self.tightness),
            weight_tightness=finite(self.weight_tightness),
            effect=effect,
            outlier_share=self.exact / self.elements if self.exact else None,
            activation_scales=_three(scales),
            weight_scales=None if self.weight_scales is None else _three(self.weight_scales),
        )


def finite(number: float) -> float:
    """Return ``number``, or the largest float for infinity, which JSON does not have."""
    return min(number, sys.float_info.max)


def _three(values: Tensor) -> tuple[float, float, float] | None:
    values = values[torch.isfinite(values)]
    return (float(values.min()), float(values.median()), float(values.max())) if values.numel() else None
