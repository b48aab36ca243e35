"""A graph as typed text, for dumps and for what bisecting finds: ``%name : dtype[shape] = target(args)  # module, made by pass``."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import fx

from lowbit_compiler.passes.find import module_path
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.torch_internals.dispatch import OpOverload


@dataclass(frozen=True, slots=True)
class Node:
    """One node as one stage has it, in words; docs/dump.md says what each field is."""

    name: str
    op: str
    target: str
    arguments: str
    inputs: tuple[str, ...]
    type: str
    bytes: int | None
    module: str
    parameter: str
    made_by: str
    source: int | None

    def line(self) -> str:
        """Return the node as a line of text."""
        if self.op == "output":
            return f"return {self.arguments}"
        call = "input" if self.op == "placeholder" else f"{self.target}({self.arguments})"
        parts = (self.parameter or self.module, f"made by {self.made_by}" if self.made_by else "")
        note = ", ".join(part for part in parts if part)
        return f"%{self.name} : {self.type} = {call}" + (f"    # {note}" if note else "")


def describe(node: fx.Node, parameter: str = "", source: int | None = None) -> Node:
    """Return ``node`` in words; ``parameter`` is what its value is called in the model, ``source`` a number of the caller's."""
    value = node.meta.get("val", node.meta.get("example_value"))  # the latter is Dynamo's
    made_by = notes(node).made_by
    owner = parameter.rpartition(".")[0] if parameter else ""
    return Node(
        name=node.name,
        op=node.op,
        target=_target(node),
        arguments=str(node.args[0]) if node.op == "output" else _arguments(node),
        inputs=tuple(given.name for given in node.all_input_nodes),
        type="" if node.op == "output" else _type(value),
        bytes=_bytes(value),
        module=_module(node) if node.op != "placeholder" or made_by else owner,
        parameter=parameter,
        made_by=made_by,
        source=source,
    )


def _module(node: fx.Node) -> str:
    """Return where a node belongs: what a pass made for an operand of no module belongs to who reads it."""
    readers = node.users if notes(node).made_by else ()
    return next((path for path in map(module_path, (node, *readers)) if path), "")


def graph_text(gm: fx.GraphModule) -> str:
    """Return the graph as it is now, one line a node."""
    return stage_text(describe(node) for node in gm.graph.nodes)


def stage_text(nodes: Iterable[Node]) -> str:
    """Return one line a node."""
    return "\n".join(node.line() for node in nodes) + "\n"


def _target(node: fx.Node) -> str:
    if isinstance(node.target, str):
        return node.target if node.op == "placeholder" else f".{node.target}"
    name = str(node.target)
    if isinstance(node.target, OpOverload):
        return name
    module = getattr(node.target, "__module__", "") or ""
    return f"{module}.{getattr(node.target, '__name__', name)}".lstrip(".")


def _arguments(node: fx.Node) -> str:
    parts = [_show(arg) for arg in node.args] + [f"{key}={_show(arg)}" for key, arg in node.kwargs.items()]
    return ", ".join(parts)


def _show(arg: object) -> str:
    if isinstance(arg, fx.Node):
        return f"%{arg.name}"
    if isinstance(arg, (list, tuple)):
        return "[" + ", ".join(_show(item) for item in arg) + "]"
    return str(arg)


def _type(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(str(size) for size in value.shape)}]"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_type(item) for item in value) + ")"
    return type(value).__name__


def _bytes(value: object) -> int | None:
    """Return the bytes of the tensors in ``value``; None where a size is symbolic."""
    if isinstance(value, (list, tuple)):
        parts = [_bytes(item) for item in value]
        return None if None in parts else sum(part for part in parts if part is not None)
    if not isinstance(value, torch.Tensor):
        return 0
    return prod(value.shape) * value.element_size() if all(isinstance(size, int) for size in value.shape) else None
