"""What the rest of lowbit says of a linear split over processes: training, measuring, saving and preparing. Run beside helpers/tensor_parallel.py."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import lowbit_compiler as lowbit
from helpers.compiled import compiled
from helpers.sharded_writes import Sharded, x
from lowbit_compiler.debug import measure


def used(mesh: Any) -> dict[str, Any]:
    """Return the sites of a compiled training step with its gradient and the float one's, of a measured call, and the errors of what refuses."""
    return {"trained": _trained(mesh), "measured": _measured(mesh), "errors": list(map(_error, _refused(mesh)))}


def _shared(mesh: Any) -> Any:
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(x(), mesh, [Replicate()])


def _local(model: Sharded, x: Any) -> Any:
    return model.linear(x).to_local()


def _trained(mesh: Any) -> tuple[list[Any], Tensor, Tensor]:
    torch.compiler.reset()
    model, other = (Sharded(mesh, _local).requires_grad_(True) for _ in range(2))
    compiled(model, "int8-training")(_shared(mesh)).square().sum().backward()
    other(_shared(mesh)).square().sum().backward()
    sites = {(site.decision, site.detail) for site in lowbit.last_report().sites}
    gradients = (each.linear.weight.grad.to_local() for each in (model, other))  # type: ignore[operator, union-attr]
    return sorted(sites), *gradients  # type: ignore[return-value]


def _measured(mesh: Any) -> list[Any]:
    report = measure(Sharded(mesh, _local), _shared(mesh), recipe="int8", plan="always")
    return [(site.decision, site.measured is not None) for site in report.sites]


def _refused(mesh: Any) -> list[Callable[[], Any]]:
    model = Sharded(mesh, _local).eval()
    return [
        lambda: lowbit.save_pretrained(model, "nowhere", recipe="int8"),
        lambda: lowbit.prepare(model, "int8"),
        lambda: lowbit.prepare_training(model, "int4-training-paper", [x()]),
    ]


def _error(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
