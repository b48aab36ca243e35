"""The order of the passes, on one page."""

from lowbit_compiler.passes.attention import FuseAttention
from lowbit_compiler.passes.chain import ChainSteps
from lowbit_compiler.passes.cleanup import Cleanup
from lowbit_compiler.passes.contract import Pass
from lowbit_compiler.passes.find import Find
from lowbit_compiler.passes.fold import FoldWeights
from lowbit_compiler.passes.lower import Lower
from lowbit_compiler.passes.lower_whole import LowerWhole
from lowbit_compiler.passes.merge import MergeSiblings
from lowbit_compiler.passes.normalize import Normalize
from lowbit_compiler.passes.pack import Pack
from lowbit_compiler.passes.plan import PlanSites
from lowbit_compiler.passes.prologue import FusePrologue
from lowbit_compiler.passes.quantize import InsertQuantize
from lowbit_compiler.passes.share import ShareTables
from lowbit_compiler.passes.softmax import CanonicalSoftmax
from lowbit_compiler.passes.treat import Treat
from lowbit_compiler.passes.widen import Widen


def waist() -> list[Pass]:
    """Return the passes up to the QDQ form, from which every exit goes on."""
    return [
        Normalize(),  # one spelling of a product, so that nobody below needs to know seven
        CanonicalSoftmax(),  # the same for softmax
        FuseAttention(),  # before sites are listed: an attention is one row, not two products and a softmax
        Find(),  # every site gets a row before anything is decided
        PlanSites(),  # decisions before rewriting: a merge may only join what is treated alike
        MergeSiblings(),  # before treatments, so that a shared input is treated and quantized once
        Widen(),  # treatments and quantizers work in float32
        Treat(),  # before quantizing: what is quantized is the treated operand
        InsertQuantize(),  # last of the maths: from here on the graph is the QDQ form
        FoldWeights(),  # weights become constants while their maths is still visible
    ]


def runtime_exit() -> list[Pass]:
    """Return the passes from the QDQ form to packed runtime ops."""
    return [
        Lower(),  # needs the whole QDQ pattern, hence before anything packs
        Pack(),  # the layout is the kernels' business, so it comes after lowering
        LowerWhole(),  # only here: ONNX has softmax and attention of its own
        FusePrologue(),  # what the ops above read is settled
        ChainSteps(),  # last of the rewrites: a step is an op with all that it computes
        ShareTables(),  # for the remainder
        Cleanup(),  # parameters lose their last users above
    ]


PASS_NAMES = tuple(p.name for p in waist() + runtime_exit())
