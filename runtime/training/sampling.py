"""Bit splitting and leverage-score sampling: gradients of 8 bits as pairs of 4-bit rows, of which half are multiplied (arXiv 2306.11987, section 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import Format, Operand
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.training.backward import GRADIENT, SAMPLING, Backward, Draw, Saved
from lowbit_compiler.runtime.training.matrix import Matrix, integer_product
from lowbit_compiler.runtime.training.noise import BITS, Stream
from lowbit_compiler.runtime.training.scales import Whole

HIGH = 14
"""What a high half counts: 14 high + low with both from -7 to 7."""


@dataclass(frozen=True)
class Split(Format):
    """u = 14 high + low from -98 to 98. The paper's code clips halves at 6, which is a bias of up to 8 % of the largest."""

    name = "s4+s4"
    scales = (Whole,)
    words = ()
    grid = Integers(-7 * HIGH, 7 * HIGH)


def halves(u: Tensor) -> Tensor:
    """Return codes ``u`` [M, N] as [2 M, N] from -7 to 7: the high halves, then the low ones."""
    high = torch.round(u.float() / HIGH)
    return torch.cat([high, u.float() - HIGH * high]).to(torch.int8)


def probabilities(c: Tensor, budget: int) -> Tensor:
    """Return p = min(1, factor c) with the sum ``budget`` for ``c`` float64 [R]; 1 for all but zeros where these are no more.

    The factor follows from how many of the largest are 1: the first number for which the next one is below 1.
    """
    falling = torch.nn.functional.pad(c.sort(descending=True).values, (0, 1))
    rest = falling.flip(0).cumsum(0).flip(0).clamp(min=1e-300)
    factor = (budget - torch.arange(len(falling), device=c.device)).clamp(min=0) / rest
    full = (falling * factor < 1).int().argmax()
    least = torch.nn.functional.pad(falling, (1, 0), value=torch.inf)[full]
    return torch.where((c >= least) & (c > 0), torch.ones_like(c), (c * factor[full]).clamp(max=1.0))


def systematic(p: Tensor, budget: int, stream: Stream) -> tuple[Tensor, Tensor]:
    """Return ``budget`` rows, each row with its probability in ``p`` float64 and none twice, and their weights 1 / p float32; 0 where no row is left.

    One number u shifts a comb of distance 1 over the sums of p: the count does not vary, so shapes are static.
    """
    fine = stream.uniform(1, 2)[0].double()
    comb = torch.arange(budget, device=p.device) + (fine[0] + (fine[1] - 0.5) * 2.0**-BITS)
    chosen = torch.searchsorted(p.cumsum(0), comb, right=True)
    valid = chosen < p.shape[0]
    chosen = chosen.clamp(max=p.shape[0] - 1)
    return chosen, torch.where(valid, 1.0 / p[chosen], torch.zeros_like(comb)).float()


@dataclass(frozen=True)
class Sampled(Backward):
    """What both products have in common: the gradient in halves, and as many of them as there are tokens."""

    gradient: Operand

    @property
    def name(self) -> str:
        """With the share of the work that is done."""
        return f"{self.gradient.name} x saved codes, 1/2 of the rows sampled"

    def choose(self, g: Tensor, s: Matrix, draw: Draw, leverage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return chosen halves [M, N] of ``g`` [M, N] times the scale of ``s``, their tokens, and what they are multiplied by.

        ``leverage`` float64 [M] is the size of what each token meets.
        """
        m = g.shape[0]
        whole = Matrix.of(self.gradient, g * s.unit, draw.stream(GRADIENT))
        parts = halves(whole.codes)
        factor = torch.cat([whole.unit.new_full((m,), HIGH), whole.unit.new_ones(m)]) * whole.unit.reshape(())
        c = parts.double().square().sum(1).sqrt() * torch.cat([leverage * HIGH, leverage])
        chosen, weight = systematic(probabilities(c, m), m, draw.stream(SAMPLING))
        return parts[chosen], chosen % m, factor[chosen] * weight


class SampledInput(Sampled):
    """dX: a token's row is the sum of its halves that were chosen."""

    def product(self, g: Tensor, s: Saved, draw: Draw) -> Tensor:
        """Exact sums of the chosen rows, added up by token."""
        assert isinstance(s, Matrix)
        rows, tokens, weights = self.choose(g, s, draw, g.new_ones(g.shape[0], dtype=torch.float64))
        product = integer_product(rows, s.codes) * weights.unsqueeze(1)
        return product.new_zeros(g.shape[0], s.codes.shape[1]).index_add(0, tokens, product)


class SampledWeight(Sampled):
    """dW: the sum over the chosen halves, which count by the size of the activation's row as well."""

    def product(self, g: Tensor, s: Saved, draw: Draw) -> Tensor:
        """A float32 product: every chosen token has a weight of its own."""
        assert isinstance(s, Matrix)
        rows, tokens, weights = self.choose(g.t(), s, draw, s.codes.double().square().sum(1).sqrt())
        return (rows.float() * weights.unsqueeze(1)).t() @ s.codes[tokens].float()
