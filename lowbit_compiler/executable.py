"""A compiled graph with its weights: what torch.compile calls."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.passes.contract import Constant
from lowbit_compiler.runtime.weights import STORE, Stamp, free, stamp


class Executable:
    """Calls ``inner`` with the inputs it still reads and with the packed weights.

    Before every call each source parameter is compared with what its packed weight was made from (object, version counter, address),
    so a changed or exchanged weight is packed again. Nothing but weak references to parameters is kept.
    """

    def __init__(self, inner: Callable[..., Any], inputs: Sequence[str], names: Sequence[str], constants: Sequence[Constant]) -> None:
        """``inputs`` are the names of what the caller passes, ``names`` those that ``inner`` takes, in order."""
        position = {name: index for index, name in enumerate(inputs)}
        self._inner = inner
        self._kept = [position[name] for name in names if name in position]
        self._constants = list(constants)
        self._sources = [tuple(position[name] for name in constant.sources) for constant in constants]
        self._recipes = [_fingerprint(constant) for constant in constants]
        outputs = [name for constant in constants for name in constant.outputs]
        self._order = [outputs.index(name) for name in names if name not in position]
        # One attribute, so that a thread never pairs new stamps with old values.
        self._state: tuple[list[tuple[int, weakref.ref[Tensor], Stamp]], list[Tensor]] = ([], [])

    def load(self, args: Sequence[Any]) -> None:
        """Take packed weights from the store for the parameters among ``args``, computing what is missing."""
        values: list[Tensor] = []
        for constant, recipe, sources in zip(self._constants, self._recipes, self._sources, strict=True):
            try:
                values += STORE.get(recipe, constant.graph, [args[i] for i in sources])
            except WeightFreedError as error:
                raise WeightFreedError(f"{', '.join(constant.sources)}: {error}") from None
        indices = sorted({i for sources in self._sources for i in sources})
        self._state = [(i, weakref.ref(args[i]), stamp(args[i])) for i in indices], [values[i] for i in self._order]

    def free(self, args: Sequence[Any]) -> int:
        """Release the float storage of every source that the rest of the graph does not read; returns the bytes."""
        kept = {args[i].untyped_storage().data_ptr() for i in self._kept if isinstance(args[i], Tensor)}
        sources = {i for positions in self._sources for i in positions}
        released = sum(free(args[i]) for i in sources if args[i].untyped_storage().data_ptr() not in kept)
        watched, values = self._state
        self._state = [(i, ref, stamp(args[i])) for i, ref, _ in watched], values
        return released

    def __call__(self, *args: Any) -> Any:
        watched, values = self._state
        for index, ref, seen in watched:
            if ref() is not args[index] or stamp(args[index]) != seen:
                self.load(args)
                _, values = self._state
                break
        return self._inner(*[args[i] for i in self._kept], *values)


def _fingerprint(constant: Constant) -> str:
    """Return a text that is equal where the computation is equal: the graph's calls with positions for names."""
    names: dict[fx.Node, str] = {}
    lines = []
    for node in constant.graph.graph.nodes:
        names[node] = f"%{len(names)}"
        args = fx.map_arg((node.args, node.kwargs), lambda n: names[n])
        lines.append(f"{node.op} {'' if node.op == 'placeholder' else node.target} {args}")
    return "\n".join(lines)
