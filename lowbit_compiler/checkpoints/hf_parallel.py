"""Low-bit linears cut over processes by transformers' tensor parallelism (``tp_plan``): what each process reads of their tensors.

Cut by rows (``colwise``) a process has some rows of codes and of scales. Cut by columns (``rowwise``) it has some columns of codes and some
blocks of scales, and scales of whole rows as they are in the file: products of parts then have the codes and scales of one device.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES, replace_layer_number_by_wildcard
from transformers.distributed.tensor_parallel import ColwiseParallel, RowwiseParallel

from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.errors import CheckpointError, OptionError

WHOLE = "replicate"
"""The style of a tensor that each process has as a whole."""


def cut(model: nn.Module, plan: dict[str, str], processes: int, quantized: bool) -> None:
    """Add to ``plan``, names and styles, what of the low-bit linears it cuts stays whole, and let their forward see plain tensors.

    Raises:
        OptionError: the linears are to be quantized as they are read (``quantized`` is False), from parts of rows that have no scale yet.
        CheckpointError: a linear cannot be cut so: blocks or a rotation would be, or the style is for another kind of module.
    """
    for name, linear, style in _cut(model, plan):
        if not quantized:
            raise OptionError(
                f"{name!r} is cut over {processes} processes: a checkpoint that is cut takes weights that are low-bit in its files; "
                f"write them with lowbit.save_pretrained first, or cut the float model and compile it"
            )
        if style == WHOLE:
            continue
        kind = ALL_PARALLEL_STYLES[style]
        if not isinstance(kind, (ColwiseParallel, RowwiseParallel)):
            raise CheckpointError(f"{name!r}: a low-bit linear is cut by rows or by columns, got the style {style!r}")
        columns = isinstance(kind, RowwiseParallel)
        if columns and not linear.scheme.divides(linear.in_features, processes):
            raise CheckpointError(
                f"{name!r} has {linear.in_features} columns of {linear.scheme.operand.name} after {linear.scheme.treatment.name}, "
                f"which do not go into {processes} processes: each takes whole blocks of scales and of the rotation"
            )
        shapes = linear.scheme.tensors(linear.out_features, linear.in_features)
        whole = [tensor for tensor, (shape, _) in shapes.items() if len(shape) < 2 or (columns and shape[1] == 1)]
        plan.update({f"{replace_layer_number_by_wildcard(name)}.{tensor}": WHOLE for tensor in whole})
        vars(linear)["_hf_quantized_needs_local_tp"] = True  # transformers' word for it


def _cut(model: nn.Module, plan: dict[str, str]) -> Iterator[tuple[str, StoredLinear, str]]:
    """Yield the low-bit linears that ``plan`` names, with their styles."""
    for name, module in model.named_modules():
        style: Any = plan.get(replace_layer_number_by_wildcard(name))
        if isinstance(module, StoredLinear) and style is not None:
            yield name, module, style
