"""Where Dynamo is and what it has seen: the function that it traces, the modules met there, and the source of each input."""

import os
import re
from dataclasses import dataclass
from types import CodeType
from typing import Any

from torch import fx, nn

WRAPPED = "_orig_mod"
"""The name under which the module that torch.compile returns holds the one it was given."""

DYNAMO = os.path.join("torch", "_dynamo", "")
CALLING = os.path.join("torch", "nn", "modules", "module.py")
ENTRY = os.path.join(DYNAMO, "eval_frame.py")


@dataclass(frozen=True)
class Traced:
    """The function that Dynamo is tracing: its code, and its variables before its first line, cells and globals resolved."""

    code: CodeType
    variables: dict[str, Any]
    globals: dict[str, Any]


def source_text(node: fx.Node) -> str | None:
    """Return the expression of placeholder ``node`` in the words of Dynamo (``L['self']._modules['a']``), or None."""
    return _text(getattr(node, "_dynamo_source", None))


def keep_source(new: fx.Node, old: fx.Node) -> None:
    """Let the placeholder ``new`` have the source of ``old``."""
    if hasattr(old, "_dynamo_source"):
        new._dynamo_source = old._dynamo_source


def is_static(node: fx.Node) -> bool:
    """Return whether placeholder ``node`` is a parameter, a buffer or another tensor that a module holds."""
    return "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})


def traced() -> Traced | None:
    """Return the function that Dynamo is tracing; None outside of any, and where a release of torch has moved it."""
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        now = InstructionTranslator.current_tx()
        return Traced(now.f_code, dict(now.f_locals), now.f_globals)
    except (ImportError, AttributeError):
        return None


def met_modules() -> list[tuple[nn.Module, str]]:
    """Return the modules that Dynamo has met in this trace, with the expression of each; empty where that cannot be told."""
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        variables = list(InstructionTranslator.current_tx().output.side_effects.id_to_variable.values())
    except (ImportError, AttributeError):
        return []
    found = [(_value(variable), getattr(variable, "source", None)) for variable in variables]
    return [(value, _text(source) or "") for value, source in found if isinstance(value, nn.Module)]


def module_id(key: str) -> int | None:
    """Return the id of the module of an entry in ``meta["nn_module_stack"]``, by its key; None where the key is no id."""
    number = key.partition("@")[0]
    return int(number) if number.isdecimal() else None


def is_continuation(code: CodeType) -> bool:
    """Return whether ``code`` is what Dynamo made of a function from a graph break on; its arguments are in an order of their own."""
    return code.co_name.startswith("torch_dynamo_resume")


def is_entry(file: str) -> bool:
    """Return whether code of ``file`` is what torch.compile puts around the function or module that it was given."""
    return file.endswith(ENTRY)


def is_calling(file: str) -> bool:
    """Return whether code of ``file`` may stand between torch.compile and what it was given: a module's way to its forward."""
    return is_entry(file) or file.endswith(CALLING)


def is_dynamo(file: str) -> bool:
    """Return whether code of ``file`` traces or compiles."""
    return DYNAMO in file and not is_entry(file)


def variable(text: str) -> str:
    """Return the variable, or what it holds, that a source's expression names: ``L['up']`` -> ``up``."""
    return re.sub(r"\[(?:'([^']*)'|(\d+))\]", r".\1\2", re.sub(r"^[LG]\['(\w+)'\]", r"\1", text)).strip(".")


def _value(variable: Any) -> Any:
    try:
        return variable.value
    except Exception:  # of some kinds it is computed, or missing
        return None


def _text(source: Any) -> str | None:
    try:
        name = source.name
        return str(name if isinstance(name, str) else name())
    except (AttributeError, NotImplementedError):  # no source, or one that has no expression
        return None
