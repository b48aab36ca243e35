"""Dynamo: its exceptions, its limit on recompilations, what it is compiling now, what it asks of modules before each call, and inputs that stay."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import ChainedSource, CompileContext, Source, TracingContext


def restart() -> type[BaseException]:
    """Return the exception by which a backend makes Dynamo trace again, with Python floats as constants."""
    from torch._dynamo.exc import RestartAnalysis

    return RestartAnalysis


_FIRST: dict[tuple[int, str], float] = {}
"""Floats of modules in the first graph of a code, by Dynamo's number of the code and the way to the float."""
_SPECIALIZED: set[str] = set()
"""Symbols that Dynamo was asked to replace by numbers."""


@contextlib.contextmanager
def held_floats_constant(gm: fx.GraphModule) -> Iterator[None]:
    """Make Dynamo trace again where it has made inputs of Python floats that modules hold (``dynamic=True``): then they are constants.

    The epsilon of a norm and the scale of an attention are numbers that kernels take. Floats that the caller passes stay inputs, and so does
    one of a module that was another number in the first graph of this code: it would need a graph for each. Where the body ends, in whatever
    way but a restart, Dynamo forgets the request, which it would apply to floats of later graphs too.

    Raises:
        RestartAnalysis: there are such floats; Dynamo catches it.
    """
    from torch._dynamo.exc import TensorifyScalarRestartAnalysis
    from torch._dynamo.symbolic_convert import TensorifyState

    if new := _to_specialize(gm):
        for symbol in new:
            TensorifyState.specialize(symbol)
        _SPECIALIZED.update(new)
        raise TensorifyScalarRestartAnalysis(restart_reason="floats of modules are constants")
    try:
        yield
    except restart():  # AOTAutograd's: it finds the same floats constant once more
        raise
    except BaseException:
        _forget()
        raise
    _forget()


def _to_specialize(gm: fx.GraphModule) -> set[str]:
    """Return the symbols of the modules' floats that are inputs of ``gm`` and should be constants."""
    from torch._dynamo.symbolic_convert import TensorifyState

    current = CompileContext.current_compile_id()
    if current is None or current.frame_id is None:
        return set()
    new = set()
    for node in gm.graph.find_nodes(op="placeholder"):
        number = _held_float(node)
        if number is None or TensorifyState.should_specialize(symbol := number.node._expr.name):
            continue
        place = (current.frame_id, node.meta["grapharg"].source.name)
        if not current.frame_compile_id or _FIRST.get(place) == number.node.hint:
            _FIRST[place] = number.node.hint
            new.add(symbol)
    return new


def _forget() -> None:
    from torch._dynamo.symbolic_convert import TensorifyState

    TensorifyState.force_specializations.difference_update(_SPECIALIZED)
    _SPECIALIZED.clear()


def _held_float(node: fx.Node) -> Any:
    """Return the symbolic float that ``node`` brings in where a module holds it, None otherwise."""
    argument: Any = node.meta.get("grapharg")
    if argument is None or not argument.pass_arg_as_tensor or not argument.source.guard_source.is_unspecialized_nn_module():
        return None
    number: Any = getattr(node.meta.get("example_value"), "item_memo", None)
    symbol = getattr(getattr(number, "node", None), "_expr", None)
    return number if hasattr(symbol, "name") else None


def inner(error: BaseException) -> BaseException:
    """Return what a backend raised, below what Dynamo wraps around it."""
    from torch._dynamo.exc import BackendCompilerFailed

    return error.inner_exception if isinstance(error, BackendCompilerFailed) else error


def allow_recompilations(limit: int) -> None:
    """Let one function have ``limit`` compiled graphs before Dynamo gives it up."""
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = limit


def compile_id() -> str:
    """Return the number that torch's logs give the compilation that runs now; "" outside of any."""
    current = CompileContext.current_compile_id()
    return "" if current is None else str(current)


def freeze_modules() -> None:
    """Let the graph that is being compiled be called whenever its modules are the same objects, whatever has become of what they hold.

    Dynamo looks at each submodule and parameter before every call, thousands of places that lie all over the memory: a millisecond for 30
    layers. What it asks of everything else stays.
    """
    from torch._dynamo.guards import GuardBuilder

    context = TracingContext.try_get()
    if context is None:
        return
    guards = context.guards_context.dynamo_guards
    held = [guard for guard in guards if guard.source.is_unspecialized_nn_module() and guard.create_fn_name() != "DUPLICATE_INPUT"]
    kept = [guard for guard in guards if guard not in held]  # also that tied weights are tied: the graph has one input for both
    guards.clear()
    for guard in kept:
        guards.add(guard)
    for module in {_module(guard.originating_source): None for guard in held}:
        guards.add(module.make_guard(GuardBuilder.ID_MATCH))


def _module(source: Source) -> Source:
    """Return the outermost module on the way to what ``source`` names."""
    way = [source]
    while isinstance(way[-1], ChainedSource):
        way.append(way[-1].base)
    return next(each for each in reversed(way) if each.guard_source.is_unspecialized_nn_module())


def stays_in_place(*tensors: Tensor) -> None:
    """Tell Dynamo that these inputs keep their memory, so that CUDA graphs may write to them; while it traces, nothing."""
    from torch._dynamo import mark_static_address

    for tensor in () if torch.compiler.is_compiling() else tensors:
        mark_static_address(tensor)
