"""Dynamo: its exceptions, its limit on recompilations, what it is compiling now, what it asks of modules before each call, and inputs that stay."""

import torch
from torch import Tensor
from torch._guards import ChainedSource, CompileContext, Source, TracingContext


def restart() -> type[BaseException]:
    """Return the exception by which a backend makes Dynamo trace again, with Python floats as constants."""
    from torch._dynamo.exc import RestartAnalysis

    return RestartAnalysis


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
