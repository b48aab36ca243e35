"""What a pass is: facts it needs, facts it leaves, and one function that rewrites in place."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import torch
from torch import fx

from lowbit_compiler.passes.calls import Costs, LinearCosts
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.site import Site
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats import Operand


class Fact(Enum):
    """Checkable facts about the graph and the planned sites (checks: passes/facts.py)."""

    CANONICAL = "a product of two dimensions with a constant operand is an aten.linear"
    FOUND = "every product, softmax, attention and convolution has a site"
    PLANNED = "every site has a plan or a reason"
    WIDE = "a planned product is float32 throughout"
    TREATED = "the operands of a planned site are what its treatment makes of them, with a product of what stays exact beside it"
    QUANTIZED = "both operands of a planned site come from dequantize nodes (weight-only: the weight)"
    FOLDED = "quantized weights are constants, computed before the first run"
    LOWERED = "a planned site that some op computes is that op"
    PACKED = "the weight of a lowered site is one packed constant"
    OPENED = "a planned product is written in ops that ONNX has, on constant weights [K, N]"
    WHOLE = "a planned softmax or attention is one lowbit op"


@dataclass(frozen=True)
class Target:
    """The machine, as plain data: passes never ask the machine themselves."""

    device: str = "cpu"
    """As torch writes it: of several GPUs, with its index."""
    has_kernels: bool = True
    """Whether the native library is there; softmax and attention in plain torch are no gain."""
    attention: bool = True
    """Whether it has an attention of its own."""
    note: str = ""
    """Why tensors of other devices have no kernels, where there is more to say."""

    @property
    def kind(self) -> str:
        """The type of the device."""
        return self.device.partition(":")[0]

    @property
    def accepted(self) -> str:
        """The devices that have kernels, and the note."""
        return f"{self.kind}; {self.note}" if self.note else self.kind


@dataclass
class Constant:
    """Values computed once from parameters: ``graph`` maps ``sources`` (placeholder names) to the ``outputs`` placeholders."""

    name: str
    graph: fx.Graph
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: tuple[str, ...]
    """What each output is: a part of a quantized weight, the packed weight, or a bias."""
    operand: Operand | None = None
    """What a weight is quantized in; None for a bias."""

    def then(self, compute: Callable[[fx.Graph, tuple[fx.Node, ...]], tuple[fx.Node, ...]]) -> None:
        """Go on computing: ``compute`` takes the graph and the nodes of the outputs, and returns those of the new ones."""
        output = self.graph.output_node()
        values: Any = output.args[0]
        with self.graph.inserting_before(output):
            output.args = (compute(self.graph, tuple(values)),)


@dataclass
class PassContext:
    """All that a pass may see: the recipe, the target, the constants among the inputs, and the sites found so far."""

    recipe: Recipe
    target: Target
    parameters: dict[str, str]
    """Placeholder name -> the parameter's name in the model, for every input known to be a constant."""
    ignore: tuple[str, ...] = ()
    max_rewrites: int | None = None
    known_names: frozenset[str] = frozenset()
    """Every module and parameter name of the model, where the caller knows them; ``ignore`` is checked against these too."""
    other_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The further names of what the model holds in more than one place, by its first; ``ignore`` may use any."""
    all_known: bool = True
    """Whether a name that is not among the known ones is none of the model's; else ``ignore`` may mean something in a later graph."""
    tables: frozenset[str] = frozenset()
    """Those of ``parameters`` that are no nn.Parameter."""
    quantize_tables: bool = False
    """Whether products with a weight that comes from tables alone are rewritten."""
    costs: Costs | None = None
    """Times a softmax or attention on the machine; None: take it wherever there is a kernel."""
    linear_costs: LinearCosts | None = None
    """Times a linear on the machine; None: rewrite it as the recipe says."""
    refused: dict[str, str] = field(default_factory=dict)
    """Captured calls that every pass leaves alone, and what went wrong at them."""
    at: fx.Node | None = None
    """The node that the running pass is at."""
    sites: list[Site] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)

    def each(self, nodes: Iterable[fx.Node]) -> Iterator[fx.Node]:
        """Yield ``nodes`` but for the refused ones, and remember at which of them the pass is."""
        for node in nodes:
            if origin(node) not in self.refused:
                self.at = node
                yield node
        self.at = None

    def origins(self, node: fx.Node) -> frozenset[str]:
        """Return the captured calls that ``node`` computes: of a merged product, several."""
        return frozenset(site.found.origin for site in self.sites_at(node)) or frozenset({origin(node)})

    def sites_at(self, node: fx.Node) -> list[Site]:
        """Return the sites that ``node`` computes: of a merged product, several."""
        return [site for site in self.sites if site.node is node]

    def planned(self) -> list[Site]:
        """Return the products that are to be rewritten."""
        return [site for site in self.sites if site.plan is not None]

    def planned_at(self) -> dict[fx.Node, list[Site]]:
        """Return the nodes of those products, each with its sites: of a merged product, several."""
        found: dict[fx.Node, list[Site]] = {}
        for site in self.planned():
            found.setdefault(site.node, []).append(site)
        return found

    def wholes(self) -> list[Site]:
        """Return the softmaxes and attentions that are to be rewritten."""
        return [site for site in self.sites if site.whole is not None]

    def replaced(self, old: fx.Node, new: fx.Node) -> None:
        """Let the sites at ``old`` follow to ``new``."""
        for site in self.sites_at(old):
            site.move(new)


def origin(node: fx.Node) -> str:
    """Return the name of the captured call that ``node`` was made for."""
    return notes(node).origin or node.name


class Pass(Protocol):
    """A graph pass; ``run`` returns the number of rewritten places, and 0 means that the graph is unchanged."""

    name: str
    requires: frozenset[Fact] = frozenset()
    establishes: frozenset[Fact] = frozenset()
    destroys: frozenset[Fact] = frozenset()
    exact: bool = True
    """Whether it changes no value beyond float rounding."""

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Rewrite ``gm`` in place."""
        ...


FLOATS = (torch.float32, torch.bfloat16, torch.float16)
