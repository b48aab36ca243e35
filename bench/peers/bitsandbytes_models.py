"""bitsandbytes LLM.int8() in eager mode, as transformers applies it: every linear but the output head."""

from collections.abc import Callable
from typing import Any

from bitsandbytes.nn import Linear8bitLt
from columns import Case
from tasks import Task
from torch import nn


def build(task: Task, case: Case) -> Callable[..., Any]:
    """Replace the linears, with the paper's threshold."""
    for parent in list(task.net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                setattr(parent, name, _quantized(child))
    return task.net.eval()


def _quantized(linear: nn.Linear) -> Linear8bitLt:
    new = Linear8bitLt(linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False, threshold=6.0)
    new.weight.data = linear.weight.data
    if linear.bias is not None:
        new.bias = linear.bias
    return new.to("cpu").requires_grad_(False)  # moving is what quantizes
