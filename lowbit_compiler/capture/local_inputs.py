"""The inputs of a localized graph, out of those of Dynamo's."""

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from lowbit_compiler.torch_internals import dtensor

MOST = 1 << 16
"""Weights whose counters are remembered: a server may exchange models for days."""


class Place(NamedTuple):
    """Where an input of a localized graph comes from."""

    position: int
    """Among Dynamo's inputs."""
    local: bool
    """Whether it is what this process holds of that."""
    weight: bool
    """Whether that is a parameter or a table: what may be packed from it is watched."""


class Inputs:
    """What a localized graph takes of the inputs of Dynamo's: some as they are, of others what this process holds.

    A write to a DTensor is counted there, and not where the memory is: so that of a weight is announced there, at the first call after it.
    That compares contents, and packs nothing again where these are the same. No other write is counted: somebody's backward pass may
    wait for this memory.
    """

    def __init__(self, places: list[Place]) -> None:
        self._places = places
        self._versions: dict[int, int] = {}
        self._met: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self.sharded = any(place.local for place in places)

    def __call__(self, args: Sequence[Any]) -> list[Any]:
        for place in self._places:
            if place.weight:
                self._look(args[place.position])
        return [dtensor.local(args[place.position]) if place.local else args[place.position] for place in self._places]

    def _look(self, whole: Any) -> None:
        version, key = dtensor.version(whole), id(whole)  # no reference: swap_tensors would refuse
        if self._versions.get(key) == version:
            return
        if len(self._versions) >= MOST:
            self._versions.clear()
        self._versions[key] = version
        memory = dtensor.local(whole).untyped_storage()
        if memory in self._met:
            dtensor.announce(whole)
        self._met.add(memory)  # nothing was packed from it before
