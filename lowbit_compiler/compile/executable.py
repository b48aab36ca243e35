"""A compiled graph with its weights: what torch.compile calls."""

import operator
import weakref
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lowbit_compiler.compile.constants import text_of
from lowbit_compiler.compile.freed import refuse_use
from lowbit_compiler.compile.prepared import Choice, Known, choose, notes
from lowbit_compiler.compile.together import STALE, Together, groups_of
from lowbit_compiler.errors import ModuleFrozenError, WeightFreedError
from lowbit_compiler.passes.contract import Constant
from lowbit_compiler.runtime.prepared import known
from lowbit_compiler.runtime.weights import LOADING, STORE, Watch, free, is_freed, trim

Key = tuple[int, ...]

REPLICAS = 64
"""Sets of tensors on the same memory that keep a state each: a few hundred bytes a weight, as they share their packed weights."""


@dataclass(frozen=True)
class State:
    """The packed weights of one set of parameters, and what these were when they were packed."""

    watch: Watch
    values: list[Tensor]
    memory: Key
    """Identities of the memory of the parameters."""
    number: int = STALE
    """Of values that several processes computed together: the same in all of them."""


class Executable:
    """Calls ``inner`` with the inputs it still reads and with the packed weights.

    One graph serves every module of the same code (layers compiled one by one, the models of a server), so there is a state for each
    set of parameters, found by their identity. Before a call these are compared with what their packed weights were made from, and
    packed again where they differ; with ``frozen`` it only matters which memory they are. No parameter is kept alive, and a state goes with the memory it is of.
    """

    inner: Callable[..., Any]
    """The compiled graph; set once the weights are loaded, so that float weights are gone before Inductor needs memory."""

    def __init__(
        self,
        inputs: Sequence[str],
        names: Sequence[str],
        constants: Sequence[Constant],
        *,
        settled: Container[str] | None = None,
        frozen: bool = False,
        release: bool = False,
        prepared: Callable[[], Known] = known,
    ) -> None:
        """``inputs`` are the names of what the caller passes, ``names`` those that ``inner`` takes, in order.

        What tensors the ``settled`` ones are Dynamo does not ask, so that is asked here.
        With ``release`` the float storage of a source goes as soon as its last constant is computed, unless ``inner`` reads it too:
        at no time are all weights there twice. ``prepared`` returns the prepared tensors that may be taken.
        """
        position = {name: index for index, name in enumerate(inputs)}
        self._kept = [position[name] for name in names if name in position]
        self._constants = [(constant, text_of(constant.graph)) for constant in constants]
        self._sources = [tuple(position[name] for name in constant.sources) for constant in constants]
        self._watched = sorted({i for sources in self._sources for i in sources})
        self._ask = settled is not None
        self._settled = [position[name] for name in inputs if name in (settled or ()) and position[name] not in self._watched]
        self._kinds: dict[str, list[Any]] = {}
        self._as_passed = not constants and not self._ask and self._kept == list(range(len(inputs)))
        outputs = [name for constant in constants for name in constant.outputs]
        self._packed = [name for name in names if name not in position]
        self._order = [outputs.index(name) for name in self._packed]
        self._frozen, self._release = frozen, release
        self._prepared = prepared
        self.together = Together(constants)
        """The other processes that compute weights with this one: each call asks them."""
        self.notes: list[str] = []
        """What is to be said of prepared tensors, of the parameters loaded last."""
        self._states: dict[Key, State] = {}
        self.released = 0
        """Bytes of float weights released so far."""
        self.held = 0
        """Bytes of those that are in memory which torch cannot release, of the parameters loaded last."""

    def load(self, args: Sequence[Any]) -> State:
        """Take packed weights from the store for the parameters among ``args``, computing what is missing; returns what a call needs.

        Raises WeightFreedError where a float weight that is needed was released.
        """
        watched: list[Tensor] = [args[i] for i in self._watched]
        if self._ask:
            self._same_kinds("packed", watched)
        key, memory = tuple(map(id, watched)), tuple(map(_memory, watched))
        with LOADING:
            state = self._states.get(key)
            if state is not None and not self.together and state.watch.same(watched):
                return state  # another thread has loaded them meanwhile
            state = None
            self._states.pop(key, None)  # the old values go before the new ones come
            executable = weakref.ref(self)

            def dead() -> None:
                if (one := executable()) is not None:
                    one._states.pop(key, None)

            going = self._going(args)
            skip = [is_freed(tensor) or _memory(tensor) in going for tensor in watched]
            watch = Watch(watched, dead, skip, self._frozen)  # before packing: a write meanwhile is a difference at the next call
            values, number = self._values(args, going)
            state = State(watch, [values[i] for i in self._order], memory, number)
            self._drop_beside(state)
            self._states[key] = state
        return state

    def _same_kinds(self, use: str, tensors: Sequence[Tensor]) -> None:
        """Raise ModuleFrozenError where ``tensors`` are of other shapes, dtypes or devices than in the first call."""
        kinds = list(map(_kind, tensors))
        first = self._kinds.setdefault(use, kinds)
        if kinds != first:
            got, was = next((now, then) for now, then in zip(kinds, first, strict=True) if now != then)
            raise ModuleFrozenError(
                f'a weight is {_text(got)} and was {_text(was)} when the model was compiled with modules="frozen"; compile anew (torch.compiler.reset())'
            )

    def _drop_beside(self, state: State) -> None:
        """Forget other tensors on the memory of ``state``: those whose packed weights are of before a change, and the oldest of many."""
        beside = [(key, one) for key, one in list(self._states.items()) if one.memory == state.memory]
        for age, (key, one) in enumerate(reversed(beside), 1):
            if age >= REPLICAS or any(map(operator.is_not, one.values, state.values)):
                self._states.pop(key, None)

    def _values(self, args: Sequence[Any], going: set[int]) -> tuple[list[Tensor], int]:
        """Return the outputs of all constants and their number, releasing the memory that is ``going`` with its last reader."""
        readers = Counter(_memory(args[i]) for indices in self._sources for i in indices)
        values: list[Tensor] = []
        before, prepared = self.released, self._prepared()
        each = [[args[i] for i in indices] for indices in self._sources]
        choices = [choose(constant, sources, prepared) for (constant, _), sources in zip(self._constants, each, strict=True)]
        stale, number = self._agree(choices, each)
        for (constant, text), choice, sources, anew in zip(self._constants, choices, each, stale, strict=True):
            try:
                values += STORE.get(text + choice.token, choice.compute, sources, number if anew else None)
            except WeightFreedError as error:
                raise WeightFreedError(f"{', '.join(constant.sources)}: {error}") from None
            readers.subtract(map(_memory, sources))
            for source in sources:
                if _memory(source) in going and not readers[_memory(source)] and not is_freed(source):
                    self.released += free(source)
                    refuse_use(source)
        if self.released != before:
            trim()
        self.notes = notes(choices)
        return values, number

    def _agree(self, choices: Sequence[Choice], each: Sequence[Sequence[Tensor]]) -> tuple[list[bool], int]:
        """Return which constants all processes are to compute now, though some have them, and the number of what is computed."""
        if not self.together:
            return [False] * len(choices), STALE
        shared = [bool(groups_of(constant)) for constant, _ in self._constants]
        keys = [text + choice.token for (_, text), choice in zip(self._constants, choices, strict=True)]
        asked = [STORE.number(key, sources) for key, sources, one in zip(keys, each, shared, strict=True) if one]
        agreed = self.together.load(asked, next(sources[0] for sources, one in zip(each, shared, strict=True) if one).device)
        same = iter(agreed.same)
        return [one and not next(same) for one in shared], agreed.number

    def _going(self, args: Sequence[Any]) -> set[int]:
        """Return the memory to release: that of sources which ``inner`` does not read and which torch can release."""
        if not self._release:
            return set()
        kept = {_memory(args[i]) for i in self._kept if isinstance(args[i], Tensor)}
        storages = {_memory(args[i]): args[i].untyped_storage() for i in self._watched}
        self.held = sum(storage.nbytes() for key, storage in storages.items() if key not in kept and not storage.resizable())
        return {key for key, storage in storages.items() if storage.resizable()} - kept

    @property
    def packed(self) -> dict[str, Tensor]:
        """The values computed from the parameters loaded last, by the names of their placeholders in the rewritten graph; empty without any."""
        states = list(self._states.values())
        return dict(zip(self._packed, states[-1].values, strict=True)) if states else {}

    def __call__(self, *args: Any) -> Any:
        if self._as_passed:  # no weights to look at, which takes as long as a short softmax
            return self.inner(*args)
        watched = [args[i] for i in self._watched]
        if self._settled:
            self._same_kinds("read", [args[i] for i in self._settled])
        state = self._states.get(tuple(map(id, watched)))
        if state is not None and not state.watch.same(watched):
            state = None  # its values go before the new ones come
        if self.together and not self.together.call(STALE if state is None else state.number, watched[0].device):
            state = None
        if state is None:
            state = self.load(args)
        return self.inner(*[args[i] for i in self._kept], *state.values)


_kind = operator.attrgetter("dtype", "device", "shape", "requires_grad")


def _text(kind: tuple[Any, ...]) -> str:
    dtype, device, shape, gradient = kind
    return f"{dtype} {tuple(shape)} on {device}{', with gradient' if gradient else ''}"


def _memory(tensor: Tensor) -> int:
    """Return what is equal for tensors that share memory, also once it is released."""
    return int(tensor.untyped_storage()._cdata)
