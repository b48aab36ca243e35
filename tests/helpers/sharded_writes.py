"""What is written to, rounded or differentiated around products of DTensors, compiled: run by helpers/ranks.py beside helpers/tensor_parallel.py."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.compiled import compiled

WIDTH, OUTS = 128, 256
Act = Callable[["Sharded", Any], Any]


class Sharded(nn.Module):
    """A linear split by rows over ``mesh``, and a buffer split as what comes out; ``act`` is what it does."""

    def __init__(self, mesh: Any, act: Act) -> None:
        from torch.distributed.tensor import Shard, distribute_tensor

        super().__init__()
        torch.manual_seed(0)
        self.linear, self.act = nn.Linear(WIDTH, OUTS).requires_grad_(False), act
        for name, parameter in list(self.linear.named_parameters()):
            self.linear.register_parameter(name, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)]), requires_grad=False))
        self.cache = distribute_tensor(torch.zeros(4, OUTS), mesh, [Shard(1)])

    def forward(self, x: Any) -> Any:
        return self.act(self, x)


def x() -> Tensor:
    """Return an input [4, WIDTH]."""
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))


def _halved(model: Sharded, x: Any) -> Any:
    model.linear.weight.mul_(0.5)
    return model.linear(x).to_local()


def _halved_by_view(model: Sharded, x: Any) -> Any:
    torch._foreach_mul_([model.linear.weight[1:]], 0.5)
    return model.linear(x).to_local()


def _cached(model: Sharded, x: Any) -> Any:
    x.mul_(3.0)
    model.cache.add_(model.linear(x))
    return model.cache.to_local() * 1.0


def _rounded(model: Sharded, x: Any) -> Any:
    from torch.distributed.tensor import Shard

    return model.linear(x).redistribute(placements=[Shard(1)], forward_dtype=torch.bfloat16).to_local()


def written(mesh: Any) -> dict[str, Any]:
    """Return what models give that write to a weight, to an input and to a cache, and what the same ones give in float; and a rounded product's dtype."""
    from torch.distributed.tensor import DTensor, Replicate

    def both(act: Act, **options: Any) -> dict[str, Any]:
        torch.compiler.reset()
        models = Sharded(mesh, act), Sharded(mesh, act)
        run = compiled(models[1], **options)
        each = [[call(DTensor.from_local(x(), mesh, [Replicate()])).clone() for _ in range(2)] for call in (models[0], run)]
        return {"want": each[0], "got": each[1], "sites": [(site.decision, site.detail) for site in lowbit.last_report().sites]}

    with torch.no_grad():
        found: dict[str, Any] = {"halved": both(_halved), "view": both(_halved_by_view), "rounded": both(_rounded)}
        for remainder in ("eager", "inductor"):
            found[remainder] = both(_cached, remainder=remainder)
    return found


def pending(mesh: Any) -> tuple[Tensor | None, Tensor]:
    """Return the gradient, and what it should be, of what was computed before a compiled call that reads the same weight and the same activation."""
    from torch.distributed.tensor import DTensor, Replicate

    def local(model: Sharded, x: Any) -> Any:
        return nn.functional.linear(x, model.linear.weight.to_local(), model.linear.bias.to_local())

    model, given = Sharded(mesh, local).requires_grad_(True), x().requires_grad_()
    hidden = torch.sigmoid(given)  # saves its result
    loss = model(hidden).sum()
    model.act = lambda model, x: model.linear(x).to_local()
    torch.compiler.reset()
    run, shared = compiled(model), DTensor.from_local(hidden.detach(), mesh, [Replicate()])
    with torch.no_grad():
        for _ in range(2):
            run(shared)
    try:
        loss.backward()
    except RuntimeError as error:  # that what it saved was written to
        print(error)
    want = model.linear.weight.to_local().sum(0) * (hidden * (1 - hidden)).detach()
    return given.grad, want
