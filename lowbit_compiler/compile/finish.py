"""From a rewritten graph to what torch.compile calls: its weights loaded, its remainder compiled."""

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import fx

from lowbit_compiler.compile.executable import Executable
from lowbit_compiler.compile.passing import Passing
from lowbit_compiler.compile.remainder import compile_remainder
from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.exits.torch_tensorrt.engines import engines_of
from lowbit_compiler.exits.torch_tensorrt.exit import takes
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.report import Report
from lowbit_compiler.torch_internals import dynamo

log = logging.getLogger("lowbit_compiler")


def finish(
    gm: fx.GraphModule,
    inputs: list[str],
    ctx: PassContext,
    examples: Sequence[Any],
    options: Options,
    report: Report,
    gathered: Collection[str] = (),
) -> Callable[..., Any]:
    """Load the weights of the rewritten graph ``gm`` and compile its remainder; ``inputs`` are what the captured one was called with.

    Those of them that are ``gathered`` hold for one call (compile/passing.py).

    In this order, so that Inductor's memory takes the place of released weights. Raises WeightFreedError where something fails after
    float weights are gone: there is no float graph to fall back to.
    """
    for node in gm.graph.nodes:
        if "val" in node.meta:
            node.meta["example_value"] = node.meta["val"]  # Inductor's passes over Dynamo graphs look here
    passing = Passing(inputs, gathered, ctx.constants)
    passing.move(gm)
    gm.recompile()
    names = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
    settled = ctx.parameters if options.modules == "frozen" else None
    kept = [constant for constant in ctx.constants if constant not in passing.constants]
    inputs, examples = [*inputs, *passing.names], [*examples, *passing(examples)]
    example = dict(zip(inputs, examples, strict=True))
    executable = Executable(inputs, names, kept, settled=settled, frozen=options.weights == "frozen", release=options.free_weights)
    try:
        if not executable.together:  # else with the first call: the other processes may have compiled this graph before
            executable.load(examples)
            report.notes += executable.notes
        executable.inner = _inner(gm, executable, example, ctx, options)
    except (WeightFreedError, dynamo.restart()):
        raise
    except Exception as error:
        if executable.released:
            raise WeightFreedError(
                f"free_weights=True had released {executable.released / 1e6:.1f} MB of float weights when compiling failed; load the model "
                f"anew, and compile without free_weights: {type(error).__name__}: {error}"
            ) from error
        raise
    _tell(executable, report)
    return passing.bind(executable)


def _inner(gm: fx.GraphModule, executable: Executable, example: dict[str, Any], ctx: PassContext, options: Options) -> Callable[..., Any]:
    """Return what computes the rewritten graph, whose inputs are those of ``example`` and the constants of ``executable``."""
    if takes(options, list(example.values())):
        return engines_of(gm, executable.packed)
    nodes = gm.graph.find_nodes(op="placeholder")
    weights = {node.name for node in nodes if node.name in ctx.parameters or node.name not in example}
    given = [example[node.name] if node.name in example else node.meta["val"] for node in nodes]
    return compile_remainder(gm, given, options.remainder, options.mode, weights)


def _tell(executable: Executable, report: Report) -> None:
    """Say what was released of float weights, and what was not."""
    if executable.released:
        report.notes.append(
            f"free_weights released {executable.released / 1e6:.1f} MB of float weights: state_dict(), saving, eager calls and a second "
            "recipe need them"
        )
        log.warning("%s", report.notes[-1])
    if executable.held:
        report.notes.append(
            f"free_weights could not release {executable.held / 1e6:.1f} MB of weights, whose memory is not torch's own: a mapped file, of which "
            "the system takes back what is not read, or an array of NumPy; lowbit.load and LowbitConfig load low-bit weights into memory of their own"
        )
        log.warning("%s", report.notes[-1])
