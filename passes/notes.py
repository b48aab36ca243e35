"""What lowbit knows of one node of a graph: a typed record beside the node's value, under one key of its ``meta``."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import fx

KEY = "lowbit_notes"


class Hidden(NamedTuple):
    """A product inside a call that nobody looks into."""

    kind: str
    """As in the report."""
    op: str
    why: str
    """Why the call stays whole."""


class Parts(NamedTuple):
    """The processes that compute a part of a product each, of as many columns, and add them up."""

    groups: tuple[str, ...]
    """By name: one for each dimension of the mesh along which the columns are cut."""
    processes: int
    """All processes together."""


@dataclass(frozen=True)
class Notes:
    """What capture and passes wrote down of one node.

    Frozen: fx copies ``meta`` from node to node, and the copies share what lies in it. :func:`note` gives its node a record of its own.
    """

    origin: str = ""
    """Name of the captured call that it was made for; "" before the first pass."""
    made_by: str = ""
    """Name of the pass that made it; "" for a captured call."""
    op: str = ""
    """Of a product, softmax, attention or convolution: what the report calls it ("linear", "matmul"), as the model spells it; else ""."""
    written: bool = False
    """Whether some call writes to its memory in place."""
    writes: bool = False
    """Whether it is a call that writes to memory in place."""
    opaque: tuple[Hidden, ...] = ()
    """What a call that stays whole has inside."""
    unfused: str = ""
    """Of a softmax: why it and the products around it did not become one attention."""
    parameter: bool = False
    """Of an input: whether it is what this process holds of a parameter that is sharded."""
    gathered: bool = False
    """Of an input: whether it is a parameter that is put together from all processes at each call."""
    passing: bool = False
    """Of an input: whether it is what a parameter is made of for one call: a constant that is not to be kept."""
    parts: Parts | None = None
    """Of a linear whose parts are added up behind it: by which processes."""
    apart: str = ""
    """Of a linear that is a part of a sum: why its scales cannot be those of all processes, where these were asked for."""
    bias: bool = False
    """Whether it adds to such a sum the bias of the linear."""
    modules: str = ""
    """The modules of the product that it was written for, where it is taken apart; separated by ", "."""


EMPTY = Notes()


def notes(node: fx.Node) -> Notes:
    """Return what is known of ``node``."""
    found: Notes = node.meta.get(KEY, EMPTY)
    return found


def note(node: fx.Node, **fields: Any) -> None:
    """Write ``fields`` of :class:`Notes` down for ``node`` alone; raises TypeError for a name that is none of them."""
    node.meta[KEY] = replace(notes(node), **fields)
