"""What capture delivers to the passes."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx, nn


@dataclass
class Captured:
    """A graph whose products, softmaxes and attentions are ATen calls, with ``meta["val"]`` on every node.

    ``parameters`` names the placeholders whose values are constants: placeholder name -> the parameter's name in the model.
    """

    gm: fx.GraphModule
    parameters: dict[str, str]
    known_names: frozenset[str] = frozenset()
    """Every module and tensor name of the model, where they can be told."""
    other_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The further names of what the model holds in more than one place, by its first."""
    by: str = "captured"
    """How the graph came about, in a word."""
    all_known: bool = True
    """Whether a name that is not among these is none of the model's: not where more modules may come to light after a graph break."""
    tables: frozenset[str] = frozenset()
    """Those of ``parameters`` that are no nn.Parameter, but a buffer or another tensor that a module holds."""
    here: str = ""
    """The module whose forward this graph is of; "" for the whole model."""
    places: Mapping[str, weakref.ref[nn.Module]] = field(default_factory=dict)
    """The modules of its class, itself too, by name: Dynamo may use this graph for all of them."""
