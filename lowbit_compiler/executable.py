"""A compiled graph with its weights: what torch.compile calls."""

import functools
import operator
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lowbit_compiler.constants import compute, fingerprint
from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.passes.contract import Constant
from lowbit_compiler.runtime.weights import STORE, Stamps, free, stamps, trim

TRIM_EVERY = 1 << 24
"""Bytes of released weights after which freed memory goes back to the system, which takes some milliseconds."""


class Executable:
    """Calls ``inner`` with the inputs it still reads and with the packed weights.

    Before every call each source parameter is compared with what its packed weight was made from (object, version counter, address),
    so a changed or exchanged weight is packed again. Nothing but weak references to parameters is kept.
    """

    inner: Callable[..., Any]
    """The compiled graph; set once the weights are loaded, so that float weights are gone before Inductor needs memory."""

    def __init__(self, inputs: Sequence[str], names: Sequence[str], constants: Sequence[Constant]) -> None:
        """``inputs`` are the names of what the caller passes, ``names`` those that ``inner`` takes, in order."""
        position = {name: index for index, name in enumerate(inputs)}
        self._kept = [position[name] for name in names if name in position]
        self._constants = list(constants)
        self._sources = [tuple(position[name] for name in constant.sources) for constant in constants]
        self._watched = sorted({i for sources in self._sources for i in sources})
        self._recipes = [fingerprint(constant.graph) for constant in constants]
        outputs = [name for constant in constants for name in constant.outputs]
        self._packed = [name for name in names if name not in position]
        self._order = [outputs.index(name) for name in self._packed]
        self.released = 0
        """Bytes of float weights released so far."""
        # One attribute, so that a thread never pairs new stamps with old values.
        self._state: tuple[list[weakref.ref[Tensor]], Stamps, list[Tensor]] = ([], ([], []), [])

    def load(self, args: Sequence[Any], release: bool = False) -> None:
        """Take packed weights from the store for the parameters among ``args``, computing what is missing.

        With ``release`` the float storage of a source goes as soon as its last constant is computed, unless ``inner`` reads it too:
        at no time are all weights there twice.
        """
        read = [args[i] for indices in (self._kept, *self._sources) for i in indices] if release else []
        readers = Counter(_storage(x) for x in read if isinstance(x, Tensor))
        values: list[Tensor] = []
        kept_back = 0  # bytes released that the C library may still hold
        for constant, recipe, indices in zip(self._constants, self._recipes, self._sources, strict=True):
            sources = [args[i] for i in indices]
            try:
                values += STORE.get(recipe, functools.partial(compute, constant.graph), sources)
            except WeightFreedError as error:
                raise WeightFreedError(f"{', '.join(constant.sources)}: {error}") from None
            if release:
                readers.subtract(map(_storage, sources))
                size = sum(free(source) for source in sources if not readers[_storage(source)])
                self.released += size
                kept_back += size
                if kept_back > TRIM_EVERY or constant is self._constants[-1]:
                    trim()
                    kept_back = 0
        watched = [args[i] for i in self._watched]
        self._state = [weakref.ref(tensor) for tensor in watched], stamps(watched), [values[i] for i in self._order]

    @property
    def packed(self) -> dict[str, Tensor]:
        """The values computed from parameters, by the names of their placeholders in the rewritten graph."""
        return dict(zip(self._packed, self._state[2], strict=True))

    def __call__(self, *args: Any) -> Any:
        refs, seen, values = self._state
        watched = [args[i] for i in self._watched]
        if not all(map(operator.is_, map(operator.call, refs), watched)) or stamps(watched) != seen:
            self.load(args)
            _, _, values = self._state
        return self.inner(*[args[i] for i in self._kept], *values)


def _storage(tensor: Tensor) -> int:
    """Return what is equal for tensors that share memory, also once it is released."""
    return int(tensor.untyped_storage()._cdata)
