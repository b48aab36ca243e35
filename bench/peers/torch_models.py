"""What stays in torch: eager, Inductor, torchao through Inductor, and lowbit."""

from collections.abc import Callable
from typing import Any

from columns import Case
from tasks import Task


def build(
    task: Task,
    case: Case,
    backend: str,
    options: dict[str, Any] | None = None,
    mode: str | None = None,
    freezing: bool = False,
    torchao: str | None = None,
) -> Callable[..., Any]:
    """Return the model as ``backend`` runs it; ``torchao`` names a configuration that is applied before."""
    if torchao is not None:
        from torchao import quantization

        quantization.quantize_(task.net, getattr(quantization, torchao)())
    if backend == "eager":
        return task.net
    import torch._inductor.config

    torch._inductor.config.freezing = freezing
    return torch.compile(task.net, backend=backend, options=options, mode=mode, fullgraph=True, dynamic=False)
