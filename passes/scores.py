"""What a softmax reads, taken apart: ``source * scale + masks``, through every spelling and widening cast."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.calls import TensorSpec, hint, operand
from lowbit_compiler.passes.contract import FLOATS
from lowbit_compiler.passes.graph import aten, emit, is_tensor, same_shape, value
from lowbit_compiler.passes.spell import IN_PLACE, argument, number, raw_name, scaled, widened

LARGE = -1e4  # a fill at or below it is meant as "not at all": its exponential is 0 beside any other score
FRESH = ("matmul", "bmm", "mul", "div", "add", "masked_fill", "where")


@dataclass(frozen=True)
class Mask:
    """A mask over scores: added (``fill`` is None), or ``fill`` put where the boolean ``tensor`` is (``keep``: is not) True."""

    tensor: fx.Node
    fill: float | None = None
    keep: bool = False

    @property
    def finite(self) -> bool:
        """Whether a number takes the place of scores, other than -Inf."""
        return self.fill is not None and self.fill != -torch.inf


@dataclass
class Scores:
    """A softmax's input as ``source * scale + masks``; ``chain`` are the nodes between."""

    source: fx.Node
    scale: float = 1.0
    masks: list[Mask] = field(default_factory=list)
    chain: list[fx.Node] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        """Whether a mask puts a finite number: it overrides what is below it, which a sum of masks would not."""
        return any(mask.finite for mask in self.masks)

    @property
    def boolean(self) -> bool:
        """Whether the masks come down to one boolean tensor."""
        return len(self.masks) == 1 and self.masks[0].fill == -torch.inf

    @property
    def mask_is_there(self) -> bool:
        """Whether the op can read its mask, if any, as it lies in the graph: :func:`emit_mask` will compute nothing."""
        return not self.masks or (len(self.masks) == 1 and (self.masks[0].fill is None or (self.boolean and self.masks[0].keep)))

    @property
    def mask_operand(self) -> TensorSpec | None:
        """The mask that :func:`emit_mask` will make, as data."""
        if not self.masks:
            return None
        if len(self.masks) == 1 and self.masks[0].fill is None:
            return operand(value(self.masks[0].tensor))
        sizes = tuple(map(hint, torch.broadcast_shapes(*(value(mask.tensor).shape for mask in self.masks))))
        return TensorSpec(sizes, _dense(sizes), torch.bool if self.boolean else torch.float32)


def read_scores(node: fx.Node, fills: bool = False) -> Scores:
    """Take apart what computes ``node``, as far as each intermediate has no other reader.

    A finite fill is taken only if asked for, and as the only mask: as an added mask it hides any number, but not a NaN.
    """
    scores = Scores(node)
    while len(scores.source.users) == 1 and _step(scores, fills):
        pass
    return scores


def _step(scores: Scores, fills: bool) -> bool:
    node = scores.source
    name = raw_name(node)
    if name in IN_PLACE and not _fresh(node.args[0]):
        return False  # writes to a value that somebody else may see
    if (x := widened(node)) is not None:
        scores.source = x
    elif (pair := scaled(node)) is not None:
        scores.source, factor = pair
        scores.scale *= factor
    elif scores.scale == 1 and not scores.filled and (masked := _masked(node, IN_PLACE.get(name, name))) is not None:
        if masked[1].finite and (scores.masks or not fills):
            return False
        scores.source, mask = masked
        scores.masks.append(mask)
    else:
        return False
    scores.chain.append(node)
    return True


def _fresh(node: Any) -> bool:
    """Return whether ``node`` makes new memory that only its one user reads."""
    name = raw_name(node)
    return bool(name) and len(node.users) == 1 and (name in FRESH or (name in IN_PLACE and _fresh(node.args[0])))


def _masked(node: fx.Node, name: str) -> tuple[fx.Node, Mask] | None:
    """Return the scores that ``node`` masks, and how."""
    if name == "add" and len(node.args) == 2 and not node.kwargs:
        x, added = node.args
        if not _full(node, x) or (_full(node, added) and _likely(added) and not _likely(x)):
            x, added = added, x
        if _full(node, x) and is_tensor(added) and value(added).dtype in FLOATS and value(added).device == value(node).device:
            return x, Mask(added)  # type: ignore[return-value, arg-type]
    elif name == "masked_fill":
        x, where, fill = node.args[0], argument(node, 1, "mask"), number(argument(node, 2, "value"))
        return _filled(node, x, where, fill, keep=False)
    elif name == "where" and len(node.args) == 3 and not node.kwargs:
        where, x, other = node.args
        if (fill := number(other)) is not None:
            return _filled(node, x, where, fill, keep=True)
        return _filled(node, other, where, number(x), keep=False)
    return None


def _filled(node: fx.Node, x: Any, where: Any, fill: float | None, keep: bool) -> tuple[fx.Node, Mask] | None:
    if fill is None or not fill <= LARGE or not _full(node, x) or not is_tensor(where) or value(where).dtype is not torch.bool:
        return None
    return x, Mask(where, fill, keep)


def _full(node: fx.Node, x: Any) -> bool:
    """Return whether ``x`` has the shape of the scores: a mask does not broadcast them."""
    return is_tensor(x) and value(x).dtype in FLOATS and same_shape(value(x).shape, value(node).shape)


def _likely(x: Any) -> bool:
    """Return whether of two full operands of a sum ``x`` looks like the scores."""
    return raw_name(x) in ("matmul", "bmm", "mul", "div") and len(x.users) == 1


def emit_mask(gm: fx.GraphModule, scores: Scores, like: fx.Node) -> fx.Node | None:
    """Emit the masks as one: boolean (True: takes part) for one fill with -Inf, else a sum of what is added.

    A finite fill is added in float32, whose lowest number leaves nothing of a score: a row that is masked throughout stays uniform.
    """
    if not scores.masks:
        return None
    if scores.boolean:
        (mask,) = scores.masks
        return mask.tensor if mask.keep else emit(gm, aten.logical_not.default, mask.tensor, like=like)
    total, *others = (_added(gm, mask, like) for mask in reversed(scores.masks))
    for other in others:
        total = emit(gm, aten.add.Tensor, total, other, like=like)
    return total


def _added(gm: fx.GraphModule, mask: Mask, like: fx.Node) -> fx.Node:
    if mask.fill is None:
        return mask.tensor
    where = emit(gm, aten.logical_not.default, mask.tensor, like=like) if mask.keep else mask.tensor
    zeros = emit(gm, aten.zeros_like.default, where, dtype=torch.float32, like=like)
    fill = mask.fill if mask.fill == -torch.inf else torch.finfo(torch.float32).min
    return emit(gm, aten.masked_fill.Scalar, zeros, where, fill, like=like)


def _dense(sizes: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(sizes[1:]):
        strides.insert(0, strides[0] * max(size, 1))
    return tuple(strides[: len(sizes)])
