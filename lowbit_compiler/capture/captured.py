"""What capture delivers to the passes."""

import re
from dataclasses import dataclass

from torch import fx


@dataclass
class Captured:
    """A graph whose products, softmaxes and attentions are ATen calls, with ``meta["val"]`` on every node.

    ``parameters`` names the placeholders whose values are constants: placeholder name -> the parameter's name in the model.
    """

    gm: fx.GraphModule
    parameters: dict[str, str]
    known_names: frozenset[str] = frozenset()


def dotted(source: str) -> str:
    """Return the dotted path of a Dynamo source: ``L['self']._modules['a']._parameters['w']`` -> ``a.w``."""
    parts = re.findall(r"_(?:modules|parameters|buffers)\['([^']+)'\]", source)
    if parts:
        return ".".join(parts)
    return re.sub(r"^[LG]\['([^']+)'\]", r"\1", source)
