"""The model's own names of modules and tensors, found by identity: how Dynamo spells them depends on how the model was called."""

import itertools
import re
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lowbit_compiler.runtime.gathered import GatheredWeight
from lowbit_compiler.torch_internals import fsdp, sources
from lowbit_compiler.torch_internals.dtensor import is_dtensor, local

MOST_NAMES = 256
"""Of one module: shared modules inside shared modules have a product of names."""


@dataclass
class Names:
    """What the modules and tensors of one or more models are called: an object's id -> all its names, as named_modules() gives them.

    An id holds while the model lives.
    """

    modules: dict[int, list[str]] = field(default_factory=dict)
    tensors: dict[int, list[str]] = field(default_factory=dict)
    whole: bool = True
    """Whether these are all names of all that was compiled: in a function some may come to light in a later graph."""
    here: str = ""
    """The module whose forward Dynamo traces: it made what was made in no submodule."""
    places: dict[str, weakref.ref[nn.Module]] = field(default_factory=dict)
    """The modules of its class, itself too."""
    gathered: set[int] = field(default_factory=set)
    """The ids of parameters that FSDP2 puts together from all processes at each call."""

    def add(self, root: nn.Module, name: str = "") -> None:
        """Name ``root``, and all that it holds, below ``name``."""
        for path, module in walk(root):
            own = joined(name, path)
            _append(self.modules, module, own)
            for whole in fsdp.gathered(module):  # of a DTensor, graphs may have what this process holds
                self.gathered.update((id(whole), id(local(whole) if is_dtensor(whole) else whole)))
            held = (module._parameters, module._buffers, {key: x for key, x in vars(module).items() if isinstance(x, Tensor)})
            for key, tensor in itertools.chain.from_iterable(part.items() for part in held):
                if tensor is not None:
                    _append(self.tensors, tensor, joined(own, key))
                if is_dtensor(tensor):
                    _append(self.tensors, local(tensor), joined(own, key))
                if isinstance(tensor, GatheredWeight):
                    for part in tensor.parts:
                        _append(self.tensors, part, joined(own, key))

    @property
    def known(self) -> frozenset[str]:
        """Every name of a module or tensor."""
        return frozenset(name for names in (*self.modules.values(), *self.tensors.values()) for name in names)

    @property
    def others(self) -> dict[str, tuple[str, ...]]:
        """The further names of what has more than one, by its first."""
        found: dict[str, tuple[str, ...]] = {}
        for first, *rest in (*self.modules.values(), *self.tensors.values()):
            if rest:
                found[first] = (*found.get(first, ()), *rest)
        return found

    def tensor(self, tensor: Tensor) -> str | None:
        """Return the name of ``tensor``; None where no module of these holds it."""
        return next(iter(self.tensors.get(id(tensor), ())), None)

    def stack(self, stack: Mapping[str, tuple[str, Any]]) -> dict[str, tuple[str, Any]]:
        """Return Dynamo's ``nn_module_stack`` with the modules' own names; what is unknown keeps the words of its source."""
        named = {}
        for key, (text, kind) in stack.items():
            found = self.modules.get(sources.module_id(key) or 0)
            named[key] = (found[0] if found else spelled(text), kind)
        return named


def _append(names: dict[int, list[str]], value: object, name: str) -> None:
    own = names.setdefault(id(value), [])
    if name not in own:
        own.append(name)


def joined(*parts: str) -> str:
    """Return the dotted path of the ``parts`` that are not empty."""
    return ".".join(filter(None, parts))


def walk(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module of ``root`` under each of its names, in the order of named_modules().

    What torch.compile puts around a module has the name of what it holds.
    """
    todo: list[tuple[str, nn.Module, frozenset[int]]] = [("", root, frozenset())]
    count: dict[int, int] = {}
    while todo:
        path, module, above = todo.pop()
        count[id(module)] = count.get(id(module), 0) + 1
        if id(module) in above or count[id(module)] > MOST_NAMES:
            continue
        yield path, module
        for key, child in reversed(module._modules.items()):
            if child is not None:
                todo.append((path if key == sources.WRAPPED else joined(path, key), child, above | {id(module)}))


def spelled(text: str) -> str:
    """Return the dotted path of a Dynamo source: ``L['self']._modules['a']._parameters['w']`` -> ``a.w``."""
    text = re.sub(r"^[LG]\['[^']+'\](\[\d+\])?", "", text)
    text = re.sub(r"\.__dict__\['_(?:modules|parameters|buffers)'\]|\._(?:modules|parameters|buffers)(?=\[)", "", text)
    return re.sub(r"\[(?:'([^']*)'|(\d+))\]", r".\1\2", text).strip(".")
