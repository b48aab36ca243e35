"""What the compiler knows of one matrix product or softmax of the model: a row of the report."""

from dataclasses import dataclass, replace
from enum import Enum

from torch import fx

from lowbit_compiler.runtime.products import Plan


class Reason(Enum):
    """Why a site was declined (names shared with other libraries of this field)."""

    UNSUPPORTED_OP = "unsupported op"
    UNSUPPORTED_DTYPE = "unsupported dtype"
    FILTERED = "filtered by the user"
    OUTPUT_HEAD = "output head kept by the recipe"
    TOO_SMALL = "too small"
    TOO_LONG = "K too long for int32 sums"
    NON_CONST_WEIGHT = "no constant operand"
    TABLE = "constant table"
    NEEDS_GRADIENT = "graph needs gradients"
    NO_KERNEL = "no kernel"
    SLOWER = "slower here"
    LIMIT = "LOWBIT_MAX_REWRITES reached"
    KEPT_WHOLE = "kept whole"
    UNUSED = "its result is not used"
    DISABLED = "a pass was disabled or failed"
    INTERNAL_ERROR = "internal error"


@dataclass(frozen=True)
class Whole:
    """A softmax or attention that becomes one op, ``op``; ``how`` says what that gains."""

    op: str
    how: str = ""


WHOLE_KINDS = ("softmax", "attention")
"""The kinds of site that may become a :class:`Whole`."""
Declined = tuple[Reason, str]
"""Why, in a word of the report and in detail."""


class Role(Enum):
    """What an operand of a product is to the compiler."""

    CONSTANT = "computed from parameters alone: quantized and packed before the first run"
    ACTIVATION = "computed at every call"
    GRADIENT = "computed at every call of a backward product"


@dataclass(frozen=True)
class Found:
    """What the captured graph says of one product, softmax, attention or convolution."""

    index: int
    kind: str
    op: str
    module: str
    shape: str
    origin: str
    """Name of the call in the captured graph."""
    roles: tuple[Role, ...] = ()
    """Of the operands of a product, in order; a bias has none."""
    k: int = 0
    n: int = 0
    element_size: int = 0
    """Bytes of an element of the float weight."""
    parameters: tuple[str, ...] = ()
    """What the weight is computed from, by its names in the model."""
    table: bool = False
    """Of a linear: its weight comes from buffers alone, from no nn.Parameter."""
    constant: bool = False
    """Computed from parameters alone: it may leave the graph when the weight that it belongs to is folded."""
    unused: bool = False
    """Nobody reads its result: it may leave the graph."""


@dataclass(frozen=True)
class Decided:
    """What the planner decided: a plan, or a reason to leave the site in float; neither until then."""

    plan: Plan | Whole | None = None
    reason: Reason | None = None
    detail: str = ""
    timed_as: int = 0
    """Which product it was timed as, with all sites of that number: only those may be merged."""


@dataclass(frozen=True)
class Became:
    """What the passes have made of it so far."""

    node: fx.Node
    merged_with: tuple[str, ...] = ()
    """The modules whose products are one with this."""
    exact: fx.Node | None = None
    """The product of the exact elements, while there is one: where the treatment splits them off, until both are lowered."""
    prologue: str = ""
    """What the op does to its rows before it quantizes them, in words."""
    no_prologue: str = ""
    """Why the op does not compute what is in front of it, where that looks like a prologue."""
    saved_bytes: int = 0
    kernel: str = ""
    call: fx.Node | None = None
    """The call that computes it with others; ``node`` is then in a graph of its own, which says what the call does."""


class Site:
    """One product, softmax, attention or convolution: what was found, what was decided, and what became of it.

    The three are frozen; each is written anew by the methods below and by nothing else.
    """

    def __init__(self, found: Found, node: fx.Node) -> None:
        self.found = found
        self.decided = Decided()
        self.became = Became(node)

    @property
    def kind(self) -> str:
        """``linear``, ``matmul``, ``softmax``, ``attention``, ``convolution`` or ``recurrent``."""
        return self.found.kind

    @property
    def module(self) -> str:
        """Dotted path of the module; "" for a plain function."""
        return self.found.module

    @property
    def node(self) -> fx.Node:
        """Where the site is in the graph now."""
        return self.became.node

    @property
    def call(self) -> fx.Node:
        """The call of the rewritten graph that computes the site, alone or with others."""
        return self.became.call or self.became.node

    @property
    def plan(self) -> Plan | None:
        """The formats of a product that is to be rewritten."""
        return self.decided.plan if isinstance(self.decided.plan, Plan) else None

    @property
    def whole(self) -> Whole | None:
        """The plan of a softmax or attention, which has no formats."""
        return self.decided.plan if isinstance(self.decided.plan, Whole) else None

    @property
    def reason(self) -> Reason | None:
        """Why it stays in float."""
        return self.decided.reason

    @property
    def detail(self) -> str:
        """What the decision rests on."""
        return self.decided.detail

    @property
    def decision(self) -> str:
        """``rewritten``, ``emulated`` or ``declined``."""
        return "rewritten" if self.lowered_to else "emulated" if self.plan is not None else "declined"

    @property
    def lowered_to(self) -> str:
        """Name of the ``lowbit::`` op that the site becomes; "" where it stays in float or is emulated."""
        return self.decided.plan.op if self.decided.plan is not None else ""

    def decline(self, reason: Reason, detail: str = "") -> None:
        """Leave this site in float, and say why."""
        self.decided = Decided(reason=reason, detail=detail)

    def take(self, plan: Plan | Whole, detail: str = "", timed_as: int = 0) -> None:
        """Rewrite this site as ``plan`` says."""
        self.decided = Decided(plan, detail=detail if isinstance(plan, Plan) else plan.how, timed_as=timed_as)

    def explain(self, *details: str) -> None:
        """Give the decision another detail: those that are not empty."""
        self.decided = replace(self.decided, detail="; ".join(filter(None, details)))

    def move(self, node: fx.Node) -> None:
        """Say that the site is at ``node`` from now on."""
        self.became = replace(self.became, node=node)

    def chain(self, call: fx.Node, node: fx.Node) -> None:
        """Say that ``call`` computes the site with others, as ``node`` says in a graph of its own."""
        self.became = replace(self.became, node=node, call=call)

    def merge(self, product: fx.Node, modules: tuple[str, ...]) -> None:
        """Say that the site is a part of ``product``, with the products of other ``modules``."""
        self.became = replace(self.became, node=product, merged_with=modules)

    def split(self, exact: fx.Node) -> None:
        """Say that ``exact`` is the product of the elements that were split off."""
        self.became = replace(self.became, exact=exact)

    def lower(self, stored: int, released: bool) -> None:
        """Say that the product, with that of its exact elements, became an op on a weight as :meth:`store` takes it."""
        self.store(stored, released)
        self.became = replace(self.became, exact=None)

    def store(self, stored: int, released: bool) -> None:
        """Say that the weight takes ``stored`` bytes; ``released``: nothing else reads the float weight."""
        found = self.found
        self.became = replace(self.became, saved_bytes=released * found.n * found.k * found.element_size - stored)

    def fuse(self, prologue: str) -> None:
        """Say what the op does to its rows before it quantizes them."""
        self.became = replace(self.became, prologue=prologue)

    def leave_in_front(self, why: str) -> None:
        """Say why the op does not compute what is in front of it."""
        self.became = replace(self.became, no_prologue=why)

    def run_by(self, kernel: str) -> None:
        """Say which kernel the op gets on this machine."""
        self.became = replace(self.became, kernel=kernel)
