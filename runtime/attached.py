"""What is kept at a module for whoever compiles it: a plain attribute, so copies and pickles of the model have it too, a state dict has not."""

import itertools
import weakref
from typing import Any, ClassVar, Self

from torch import nn

_serials = itertools.count()
_all: weakref.WeakSet["Attached"] = weakref.WeakSet()


class Attached:
    """A value at one module, under the name ``attribute``."""

    attribute: ClassVar[str]

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self._enter()

    def _enter(self) -> None:
        self.serial = next(_serials)
        """Another one for every object, copies too."""
        _all.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_module": self._module()}  # whoever copies the module makes of this its copy

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._module = weakref.ref(state["_module"])
        self._enter()

    @property
    def module(self) -> nn.Module | None:
        """The module; None where that has gone, or has another value by now."""
        module = self._module()
        return None if module is None or vars(module).get(self.attribute) is not self else module

    def attach(self) -> None:
        """Let this be what the module has."""
        module = self._module()
        assert module is not None
        vars(module)[self.attribute] = self  # not setattr: to Dynamo the module stays as it is

    @classmethod
    def everywhere(cls) -> list[Self]:
        """Return all there are in this process, in the order in which they were made."""
        return sorted((each for each in list(_all) if isinstance(each, cls)), key=lambda each: each.serial)
