"""Where in the traced function each input of Dynamo's graph comes from."""

from typing import Any

from torch import fx


def source_text(node: fx.Node) -> str | None:
    """Return the expression of placeholder ``node`` in the words of Dynamo (``L['self']._modules['a']``), or None."""
    source = getattr(node, "_dynamo_source", None)
    if source is None:
        return None
    return str(source.name if isinstance(source.name, str) else source.name())


def is_static(node: fx.Node) -> bool:
    """Return whether placeholder ``node`` is a parameter or buffer of a module."""
    return "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})


def frame_locals() -> dict[str, Any]:
    """Return the variables of the function that Dynamo is tracing; empty outside of any."""
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        return dict(InstructionTranslator.current_tx().f_locals)
    except (ImportError, AttributeError):
        return {}
