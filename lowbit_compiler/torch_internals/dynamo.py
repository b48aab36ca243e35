"""Dynamo: its exceptions, its limit on recompilations, and what it is compiling now."""

from torch._guards import CompileContext


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
