"""What torch's exporter failed on, in the words of the model: which op, in which modules."""

from collections.abc import Iterator
from typing import Any

from torch import fx
from torch.export import ExportedProgram

from lowbit_compiler.errors import ExportError
from lowbit_compiler.passes.find import module_path
from lowbit_compiler.torch_internals.dispatch import HigherOrderOperator, OpOverload


def explain_failure(error: Exception, program: ExportedProgram) -> ExportError:
    """Return the error that names the op and the modules of the node that ``error`` is about."""
    causes = list(_causes(error))
    text = "\n".join(str(cause) for cause in causes)
    found = [node for node in _nodes(program) if _mentioned(node, text)]
    if not found:  # the op came out of a decomposition
        try:
            found = [node for node in _nodes(program.run_decompositions()) if _mentioned(node, text)]
        except Exception:
            found = []
    root = str(causes[-1]).strip().partition("\n")[0]
    if not found:
        return ExportError(f"torch's ONNX exporter failed: {type(causes[-1]).__name__}: {root}")
    modules = list(dict.fromkeys(module_path(node) or "(the model itself)" for node in found))
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    return ExportError(f"no ONNX translation for {found[0].target} in {', '.join(modules[:3])}{more}: {root}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _nodes(program: ExportedProgram) -> Iterator[fx.Node]:
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield from module.graph.nodes


def _mentioned(node: fx.Node, text: str) -> bool:
    target: Any = node.target
    if node.op != "call_function" or not isinstance(target, OpOverload | HigherOrderOperator):
        return False
    return f"No ONNX function found for {target!r}." in text or f"%{node.name} :" in text
