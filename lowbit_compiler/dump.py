"""Numbered text files of the graph after every pass, with an index; written beside and renamed, so that none is half there."""

import os
from pathlib import Path

import torch
from torch import fx

from lowbit_compiler.passes.contract import Pass
from lowbit_compiler.passes.runner import PassRun


def graph_text(gm: fx.GraphModule) -> str:
    """Return the graph as typed text: ``%name : dtype[shape] = target(args)  # module, made by pass``."""
    return "\n".join(_line(node) for node in gm.graph.nodes) + "\n"


def _line(node: fx.Node) -> str:
    made_by = node.meta.get("lowbit_pass")
    stack = node.meta.get("nn_module_stack")
    module = str(next(reversed(stack.values()))[0]) if stack and node.op != "placeholder" else ""
    note = ", ".join(part for part in (module, f"made by {made_by}" if made_by else "") if part)
    if node.op == "output":
        return f"return {node.args[0]}"
    call = "input" if node.op == "placeholder" else f"{_target(node)}({_arguments(node)})"
    return f"%{node.name} : {_type(node.meta.get('val'))} = {call}" + (f"    # {note}" if note else "")


def _target(node: fx.Node) -> str:
    if isinstance(node.target, str):
        return f".{node.target}"
    name = str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
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


def write(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


class Dump:
    """Writes one folder ``graph_<number>`` for each compiled graph below ``folder``."""

    def __init__(self, folder: str) -> None:
        root = Path(folder)
        number = sum(1 for path in root.glob("graph_*")) if root.exists() else 0
        self.folder = root / f"graph_{number}"
        self._rows: list[str] = []

    def stage(self, name: str, gm: fx.GraphModule, note: str) -> None:
        """Write the graph as it is now, as the next numbered file."""
        file = f"{len(self._rows):02d}_{name}.txt"
        write(self.folder / file, graph_text(gm))
        self._rows.append(f"| [{file}]({file}) | {note} | {len(gm.graph.nodes)} |")

    def observe(self, p: Pass, run: PassRun, gm: fx.GraphModule) -> None:
        """Write the graph after a pass (observer of the runner)."""
        self.stage(p.name, gm, f"skipped: {run.skipped}" if run.skipped else f"{run.rewrites} rewrites, {run.seconds * 1e3:.0f} ms")

    def finish(self, report: str) -> None:
        """Write ``index.md`` with one row a stage, and the report."""
        write(self.folder / "report.txt", report)
        table = "\n".join(["| stage | what happened | nodes |", "|---|---|---|", *self._rows])
        write(self.folder / "index.md", f"# What each pass did\n\n{table}\n\nDecisions: [report.txt](report.txt)\n")
