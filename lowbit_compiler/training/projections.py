"""Projections of weights after each step of an optimizer: their norm kept, or their singular values bounded.

All are products and power iterations, without a decomposition (arXiv 2407.01800; 2507.13338, section 3).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lowbit_compiler.errors import OptionError

ITERATIONS = 12
"""Of a power iteration that begins with the vector of the step before."""
STEPS = 30
"""Of Newton and Schulz: singular values down to 2^-20 of the largest reach 1."""
State = dict[str, Any]
Projection = Callable[[Tensor, float, State], Tensor]


def kept_norm(w: Tensor, most: float, state: State) -> Tensor:
    """Return ``w`` with the Frobenius norm that it had first, times ``most`` (normalize and project)."""
    first: Tensor = state.setdefault("norm", w.norm() * most)
    now: Tensor = w.norm().clamp(min=1e-30)
    return w * (first / now)


def normalized(w: Tensor, most: float, state: State) -> Tensor:
    """Return ``w`` scaled down where its largest singular value is above ``most``."""
    size, _, _ = _top(w, state)
    return w * (most / size.clamp(min=most))


def hammered(w: Tensor, most: float, state: State) -> Tensor:
    """Return ``w`` with its largest singular value brought down to ``most`` and the others as they are."""
    size, left, right = _top(w, state)
    return w - torch.outer(left, right) * (size - most).clamp(min=0.0)


def capped(w: Tensor, most: float, state: State) -> Tensor:
    """Return ``w`` with every singular value above ``most`` brought down to it: (s + 1 - |1 - s|) / 2 in units of ``most``."""
    if w.shape[0] < w.shape[1]:
        return capped(w.t(), most, state).t()
    v = w / most
    turn = _sign(v)
    below = torch.eye(v.shape[1], dtype=v.dtype, device=v.device) - turn.t() @ v
    return (v + turn - (turn - v) @ _sign((below + below.t()) / 2)) * (most / 2)


PROJECTIONS: dict[str, Projection] = {"keep-norm": kept_norm, "normalize": normalized, "hammer": hammered, "cap": capped}


def project(
    optimizer: torch.optim.Optimizer, projection: str, most: float = 1.0, weights: Iterable[Tensor] | None = None
) -> RemovableHandle:
    """Project ``weights`` after every step of ``optimizer``; by default all its matrices. Returns a handle whose ``remove()`` ends that.

    ``"keep-norm"`` keeps the Frobenius norm, times ``most``; ``"normalize"``, ``"hammer"`` and ``"cap"`` let no singular value, or only the
    largest of a step, exceed ``most``. Raises OptionError for another name, and where ``most`` is not above 0.
    """
    if projection not in PROJECTIONS:
        raise OptionError(f"project takes {', '.join(map(repr, PROJECTIONS))}, got {projection!r}")
    if not most > 0:
        raise OptionError(f"project takes most above 0, got {most!r}")
    given = [each for group in optimizer.param_groups for each in group["params"]] if weights is None else list(weights)
    states: list[tuple[Tensor, State]] = [(each, {}) for each in given if each.dim() == 2]
    for each, state in states:  # what they are before the first step is what their norm is kept at
        PROJECTIONS[projection](each.detach().float(), most, state)

    @torch.no_grad()
    def after(*_: Any) -> None:
        for each, state in states:
            if each.grad is not None:
                each.copy_(PROJECTIONS[projection](each.float(), most, state))

    return optimizer.register_step_post_hook(after)


def _top(w: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest singular value and its vectors, by a power iteration that goes on where the last ended."""
    right = state.get("right")
    if right is None:
        right = w.square().sum(0).sqrt()  # no column's share is missing
    for _ in range(ITERATIONS):
        left = torch.nn.functional.normalize(w @ right, dim=0)
        right = torch.nn.functional.normalize(w.t() @ left, dim=0)
    state["right"] = right
    return left @ (w @ right), left, right


def _sign(a: Tensor) -> Tensor:
    """Return ``a`` with all singular values 1 (Newton and Schulz: s becomes (3 s - s^3) / 2)."""
    x: Tensor = a / a.norm().clamp(min=1e-30)
    for _ in range(STEPS):
        x = 1.5 * x - 0.5 * x @ (x.t() @ x)
    return x
