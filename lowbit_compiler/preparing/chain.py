"""Repeated blocks of a model, and the inputs that each of them has in every call of calibration."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lowbit_compiler.preparing.block import Call
from lowbit_compiler.preparing.kept import Kept
from lowbit_compiler.torch_internals.trees import tree_flatten, tree_leaves, tree_unflatten

Named = tuple[str, nn.Module]


def block_lists(model: nn.Module, holders: Iterable[nn.Module]) -> list[list[Named]]:
    """Return the outermost lists of at least two modules of one class that each contain some of ``holders``, in the order of the model.

    Such are the layers of a transformer; encoder and decoder have one each.
    """
    wanted = set(holders)
    found: list[list[Named]] = []
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside or not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        children = list(module)
        alike = len(set(children)) > 1 and len({type(child) for child in children}) == 1
        if alike and all(child not in wanted and not wanted.isdisjoint(child.modules()) for child in children):
            found.append([(f"{name}.{key}" if name else key, child) for key, child in module.named_children()])
            inside.update(module.modules())
    return found


@dataclass
class _Call:
    """The arguments of one call of one block, flattened: but for the one that another block's call returned, as they were in the first run."""

    leaves: list[Any]
    spec: Any
    carried: int | None = None
    """Which leaf is the output of the block before."""
    number: int = 0
    """Of the call of the block before that returned it."""


class _Last(Exception):
    """Ends a run of the model: nothing is needed of what comes behind the blocks."""


class Chain:
    """The blocks of one list. One run of the model says what each is called with, and from there on blocks are called alone.

    What a block is given that is no output of the block before (masks, positions, the states of an encoder) is kept as it was in that run.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[Named], kept: Kept) -> None:
        self.blocks = list(blocks)
        self._model, self._kept = model, kept
        self._calls: list[list[_Call]] = [[] for _ in blocks]

    def record(self, calls: Iterable[Call]) -> Iterator[None]:
        """Run the model on each of ``calls``, up to the last block, yielding after each."""
        position = {module: index for index, (_, module) in enumerate(self.blocks)}
        latest: dict[int, Any] = {}

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            index = position[module]
            leaves, spec = tree_flatten((args, kwargs))
            call = _Call(leaves, spec)
            output = latest.get(index - 1)
            if output is not None:
                call.carried = next((at for at, leaf in enumerate(leaves) if leaf is output), None)
            if call.carried is not None:
                leaves[call.carried], call.number = None, len(self._calls[index - 1]) - 1
            self._calls[index].append(call)

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            latest[position[module]] = carried(output)
            if position[module] == len(self.blocks) - 1:
                raise _Last

        hooks = [module.register_forward_pre_hook(before, with_kwargs=True) for module in position]
        hooks += [module.register_forward_hook(after, with_kwargs=True) for module in position]
        try:
            for args, kwargs in calls:
                latest.clear()
                with contextlib.suppress(_Last):
                    self._model(*args, **kwargs)
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def calls(self, index: int) -> Iterator[Call]:
        """Yield the arguments of every call of a block; what the block before made is as it was put last."""
        for call in self._calls[index]:
            leaves = list(call.leaves)
            if call.carried is not None:
                leaves[call.carried] = self._kept.get(call.number)
            yield tree_unflatten(leaves, call.spec)

    def put(self, index: int, outputs: Iterable[Any]) -> None:
        """Let ``outputs``, one for each call of a block, be what the next block is called with."""
        for number, output in enumerate(outputs):
            self._kept.put(number, carried(output))
        self._calls[index] = []


def carried(output: Any) -> Any:
    """Return the first tensor of what a block returns."""
    return next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
