"""What the compiler knows of one matrix product or softmax of the model: a row of the report."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import fx

from lowbit_compiler.recipes import Treatment


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
class Plan:
    """The formats that one site gets."""

    weights: str
    activations: str
    treatment: Treatment
    threshold: float = 6.0
    group_size: int = 64

    @property
    def op(self) -> str:
        """Name of the ``lowbit::`` op that computes this plan."""
        if self.activations == "float":
            return "linear_fs8" if self.weights == "int8" else "linear_fs4"
        suffix = {"none": "", "rotation": "_rotated", "columns": "_columns", "rows": "_rows"}[self.treatment]
        return "linear_s8s8" + suffix

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What this op takes between ``n`` and ``dtype``."""
        return {"linear_s8s8_columns": (self.threshold,), "linear_fs4": (self.group_size,)}.get(self.op, ())


@dataclass(frozen=True)
class Whole:
    """A softmax or attention that becomes one op, ``op``; ``how`` says what that gains."""

    op: str
    how: str = ""


@dataclass
class Site:
    """One product, softmax, attention or convolution; ``node`` follows the rewriting."""

    index: int
    kind: str
    op: str
    module: str
    shape: str
    node: fx.Node
    k: int = 0
    n: int = 0
    element_size: int = 0
    parameters: tuple[str, ...] = ()
    plan: Plan | None = None
    whole: Whole | None = None
    """The plan of a softmax or attention, which has no formats."""
    reason: Reason | None = None
    detail: str = ""
    merged_with: list[str] = field(default_factory=list)
    kernel: str = ""
    saved_bytes: int = 0
    group: int = 0
    """Which sites were priced as one product: only those may be merged."""
    origin: str = ""
    """Name of the call in the captured graph."""
    unused: bool = False
    """Nobody reads its result: it may leave the graph."""
    constant: bool = False
    """Computed from parameters alone: it may leave the graph when the weight that it belongs to is folded."""
    table: bool = False
    """Of a linear: its weight comes from buffers alone, from no nn.Parameter."""
    prologue: str = ""
    """What the op does to its rows before it quantizes them, in words."""
    exact: fx.Node | None = None
    """The product of the exact elements, where the treatment splits them off."""

    @property
    def decision(self) -> str:
        """``rewritten`` or ``declined``."""
        return "rewritten" if self.lowered_to else "declined"

    @property
    def lowered_to(self) -> str:
        """Name of the ``lowbit::`` op that the site becomes; "" where it stays in float."""
        plan = self.plan or self.whole
        return plan.op if plan is not None else ""

    def decline(self, reason: Reason, detail: str = "") -> None:
        """Leave this site in float, and say why."""
        self.plan = self.whole = None
        self.reason, self.detail = reason, detail

    def take(self, plan: Plan | Whole, detail: str = "") -> None:
        """Rewrite this site as ``plan`` says."""
        if isinstance(plan, Plan):
            self.plan, self.detail = plan, detail
        else:
            self.whole, self.detail = plan, plan.how
