"""Coordinate descent on what GPTQ leaves: lines for the codes that there are, then codes for these lines, by the whole squared error.

The error of a row of W is E H E^T with E = slope q + minimum - w. GPTQ fixes lines before codes and never looks back at a column; each step
here changes one group's line or one code so that this error is least, and never makes it greater (codes as in QuantEase, arXiv 2309.01885).
"""

import torch
from torch import Tensor

from lowbit_compiler.preparing.lines import GroupLines, lines_of
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.formats.lines import Lines

SWEEPS = 2
COLUMNS = 128
"""Codes after which the error is carried to all other columns."""
SINGULAR = 1e-6
"""Of the product of its diagonal, a determinant below which codes of a group fix no line."""


def refined(weight: Tensor, parts: tuple[Tensor, ...], hessian: Tensor, operand: Operand) -> tuple[Tensor, ...]:
    """Return parts of ``weight`` [N, K] with no greater error for ``hessian`` [K, K] than ``parts`` have; a group that is not finite stays."""
    lines = lines_of(operand, parts, weight.shape[1])
    q = parts[0].float()
    for _ in range(SWEEPS):
        if isinstance(operand.scale, Lines):
            parts = _fit_lines(weight, q, parts, lines, hessian, operand.scale)
            lines = lines_of(operand, parts, weight.shape[1])
        _choose_codes(weight, q, lines, hessian)
    return q.to(parts[0].dtype), *parts[1:]


def _fit_lines(w: Tensor, q: Tensor, parts: tuple[Tensor, ...], lines: GroupLines, hessian: Tensor, scale: Lines) -> tuple[Tensor, ...]:
    """Return ``parts`` with each group's line that of least error beside those of the others, as it can be stored."""
    outer, largest = parts[-1], lines.codes[1]
    inverse = torch.where(outer > 0.0, 1.0 / outer, torch.zeros_like(outer))
    slope, minimum = lines.slope.clone(), lines.minimum.clone()
    error = slope[:, lines.group] * q + minimum[:, lines.group] - w
    for at in range(slope.shape[1]):
        own = (lines.group == at).nonzero().squeeze(1)
        inside, codes = hessian[own][:, own], q[:, own]
        gradient, turned = error @ hessian[:, own], codes @ inside
        a, b, c = (turned * codes).sum(1), turned.sum(1), inside.sum()  # the error is a ds^2 + 2 b ds dm + c dm^2 + 2 (d ds + e dm) + ...
        d, e = (gradient * codes).sum(1), gradient.sum(1)
        determinant = a * c - b * b
        steps = ((b * e - c * d) / determinant, (b * d - a * e) / determinant)
        fitted = tuple((old[:, at] + step).unsqueeze(1) * inverse for old, step in zip((slope, minimum), steps, strict=True))
        stored = scale.representable(fitted, largest)  # type: ignore[arg-type]
        new = tuple((number * outer).squeeze(1) for number in stored)
        ds, dm = new[0] - slope[:, at], new[1] - minimum[:, at]
        gain = a * ds * ds + 2 * b * ds * dm + c * dm * dm + 2 * (d * ds + e * dm)
        better = (determinant > SINGULAR * a * c) & (new[0] > 0.0) & (gain < 0.0)
        ds, dm = (torch.where(better, each, torch.zeros_like(each)) for each in (ds, dm))
        slope[:, at] += ds
        minimum[:, at] += dm
        error[:, own] += ds.unsqueeze(1) * codes + dm.unsqueeze(1)
    special = ~torch.isfinite(slope + minimum)
    line = scale.representable((slope * inverse, minimum * inverse), largest)
    return parts[0], *scale.store(line, special), outer


def _choose_codes(w: Tensor, q: Tensor, lines: GroupLines, hessian: Tensor) -> None:
    """Let each code of ``q``, column by column, be the one of least error beside all others."""
    slope, minimum = (each.t().contiguous() for each in lines.columns)
    codes = q.t().contiguous()
    error = codes * slope + minimum - w.t()
    gradient = hessian @ error
    inverse = torch.where(slope > 0.0, 1.0 / slope, torch.zeros_like(slope)) / hessian.diagonal().unsqueeze(1)
    for start in range(0, len(codes), COLUMNS):
        inside = slice(start, start + COLUMNS)
        own, changes = gradient[inside].clone(), torch.zeros_like(codes[inside])
        block = hessian[inside, inside]
        for i in range(len(own)):
            k = start + i
            if i:
                own[i].addmv_(changes[:i].t(), block[:i, i])
            new = torch.addcmul(codes[k], own[i], inverse[k], value=-1.0).round_().clamp_(*lines.codes)
            torch.mul(new - codes[k], slope[k], out=changes[i])
            codes[k] = new
        gradient.addmm_(hessian[:, inside], changes)
    q.copy_(codes.t())
