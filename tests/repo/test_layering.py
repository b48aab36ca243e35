"""Imports go one way, nothing is imported relatively, private parts of torch stay behind one door, and files stay small enough to read."""

import ast
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"lowbit_compiler": (), "passes": ("passes",), "runtime": ("runtime",)}  # folder -> where it is in the package
FILES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))
INTERNALS = "lowbit_compiler.torch_internals"
SURFACES = sorted(path.stem for path in (ROOT / "lowbit_compiler/torch_internals").glob("*.py") if path.stem != "__init__")
SLOW = ("torch._dynamo", "torch._inductor", "sympy")

ALLOWED: dict[str, tuple[str, ...]] = {
    # What everybody may name, since it stands on nothing of ours.
    "errors": (),
    "torch_internals": (),
    "recipe_names": (),
    # Formats and treatments, the products of them, and the ops.
    "runtime.packing": (),
    "runtime.rounding": (),
    "runtime.formats": ("runtime.packing", "runtime.rounding", "torch_internals"),
    "runtime.treatments": ("runtime.formats",),
    "runtime.products": ("runtime.formats", "runtime.treatments"),
    "runtime.training": ("runtime.formats", "runtime.products", "runtime.rounding", "runtime.treatments", "torch_internals"),
    "runtime.reference": ("runtime.formats", "runtime.packing", "runtime.treatments", "torch_internals"),
    "runtime": ("errors", "runtime.*", "torch_internals"),
    # From a captured graph to a rewritten one.
    "recipes": ("errors", "recipe_names", "runtime.formats", "runtime.products", "runtime.training", "runtime.treatments"),
    "passes": ("errors", "recipes", "runtime.chain", "runtime.formats", "runtime.ops", "runtime.products", "runtime.treatments", "torch_internals"),
    "capture": ("errors", "passes", "runtime", "torch_internals"),
    "pricing": ("passes", "runtime.*", "torch_internals"),
    "options": ("errors", "passes", "recipes", "runtime", "torch_internals"),
    # What was done to a graph, for people.
    "report": ("passes",),
    "graph_text": ("passes", "torch_internals"),
    "dump": ("errors", "graph_text", "passes", "report", "runtime", "torch_internals"),
    # From Dynamo's graph to one that trains.
    "training": ("capture", "errors", "options", "passes", "pricing", "recipes", "report", "runtime.steps", "runtime.training", "torch_internals"),
    # From a rewritten graph to what runs, or to a file: an exit says how, compile does it.
    "exits": ("options", "passes", "pricing", "runtime"),
    "exits.forms": ("passes", "runtime.treatments"),
    "exits.torch_tensorrt": ("exits", "exits.forms", "options", "passes", "runtime.formats", "runtime.treatments", "torch_internals"),
    "compile": (
        "capture", "dump", "errors", "exits", "exits.torch_tensorrt", "options", "passes", "recipes", "report", "runtime.*", "torch_internals",
        "training",
    ),
    "exits.onnx": ("capture", "compile", "errors", "exits", "exits.forms", "options", "passes", "recipes", "report", "runtime.*", "torch_internals"),
    "exits.tensorrt": ("capture", "errors", "exits.onnx", "options", "recipes", "report", "runtime.products", "runtime.files"),
    "exits.package": (
        "capture", "compile", "errors", "exits", "options", "passes", "recipes", "report", "runtime", "torch_internals",
    ),
    "backend": ("compile", "options"),
    # What models are given beside the backend.
    "preparing": ("errors", "passes", "recipes", "runtime.*", "torch_internals"),
    "checkpoints": ("errors", "passes", "preparing", "recipes", "runtime.*", "torch_internals"),
    "gathering": ("checkpoints", "errors", "passes", "preparing", "recipes", "runtime.*", "torch_internals"),
    "int8_cache": ("runtime", "torch_internals"),
    "bitnet": (),
    "hf_hook": (),
    # What runs models to learn something of them; none needs another.
    "rerun": ("torch_internals",),
    "debug": (
        "capture", "compile", "errors", "exits", "graph_text", "options", "passes", "recipes", "report", "rerun", "runtime.*",
        "torch_internals", "training",
    ),
    "profiling": ("compile", "errors", "options", "passes", "pricing", "recipes", "report", "rerun", "runtime", "torch_internals"),
    "demo": ("checkpoints", "compile", "errors", "options", "recipes", "report", "runtime", "torch_internals"),
    # On top: the command line, and the names that users import.
    "cli": ("capture", "compile", "debug", "demo", "dump", "errors", "exits.onnx", "exits.tensorrt", "options", "profiling", "recipe_names", "report", "runtime"),
    "": (
        "bitnet", "checkpoints", "compile", "exits.onnx", "exits.package", "exits.tensorrt", "gathering", "hf_hook", "int8_cache", "preparing", "recipes", "report", "training",
    ),
}  # fmt: skip
"""Who may import what: the folders and files right below lowbit_compiler/, with passes/ and runtime/, which are installed there. A row holds
for all that is inside but has no row of its own. So does an entry; with .* it holds for all."""


def _module(path: Path) -> tuple[str, ...]:
    """Return the path of a module in the package: ("passes", "fold"); () for the package itself."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return tuple(part for part in (*PACKAGES[folder], *rest) if part != "__init__")


MODULES = {".".join(("lowbit_compiler", *_module(path))) for path in FILES}


def _imports(path: Path) -> list[str]:
    """Return the modules of ours that a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            each = (f"{node.module}.{alias.name}" for alias in node.names)
            names += [name if name in MODULES else str(node.module) for name in each]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    assert not any(name.partition(".")[0] in ("passes", "runtime") for name in names)
    return [name for name in names if name.partition(".")[0] == "lowbit_compiler"]


def _row(module: str) -> str:
    """Return the row of the table that a module belongs to."""
    name = module.partition(".")[2]
    return max((row for row in ALLOWED if _inside(name, row)), key=len)


def _inside(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}.")


def _entries(module: str, row: str) -> list[str]:
    """Return the entries of ``row`` that allow ``module``."""
    name = module.partition(".")[2]
    return [entry for entry in ALLOWED[row] if _inside(name, entry.removesuffix(".*")) and (entry not in ALLOWED or _row(module) == entry)]


def _meant(row: str, entry: str) -> set[str]:
    """Return the rows that an entry of ``row`` stands for."""
    if entry.endswith(".*"):
        return {other for other in ALLOWED if _inside(other, entry.removesuffix(".*")) and other != row}
    return {_row(f"lowbit_compiler.{entry}")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layer(path: Path) -> None:
    row = _row(".".join(("lowbit_compiler", *_module(path))))
    for name in _imports(path):
        assert _row(name) == row or _entries(name, row), f"{row} must not import {name}"


def test_every_part_has_a_row() -> None:
    parts = {_module(path)[0] for path in FILES if _module(path)}
    assert parts | {""} == {row.partition(".")[0] for row in ALLOWED}


def test_no_part_needs_itself() -> None:
    table = nx.DiGraph([(row, meant) for row, entries in ALLOWED.items() for entry in entries for meant in _meant(row, entry)])
    assert nx.is_directed_acyclic_graph(table), nx.find_cycle(table)


def test_the_table_says_no_more_than_there_is() -> None:
    used: set[tuple[str, str]] = set()
    for path in FILES:
        row = _row(".".join(("lowbit_compiler", *_module(path))))
        used |= {(row, entry) for name in _imports(path) for entry in _entries(name, row)}
    assert used == {(row, entry) for row, entries in ALLOWED.items() for entry in entries}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_size_and_docstring(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)), "a file says what its one idea is"


def _private(path: Path) -> list[str]:
    """Return what the file names of torch and transformers that has no public name; ops (torch.ops.aten._softmax) are public."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            names.append(node.value)
    return [name for name in names if _is_private(name)]


def _is_private(name: str) -> bool:
    if name.startswith("torch.ops."):
        return False
    if not name.startswith(("torch.", "transformers.")):
        return name.rpartition(".")[2].startswith(("_dynamo_", "_param_name_to_source"))
    parts = name.split(".")[1:]
    return parts[:2] == ["fx", "experimental"] or any(part.startswith("_") and not part.startswith("__") for part in parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_parts_are_used_behind_torch_internals_alone(path: Path) -> None:
    inside = path.parent.name == "torch_internals"
    assert inside or not _private(path)
    assert not inside or not _imports(path), "a leaf: it imports torch alone"


@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface_has_a_canary(surface: str) -> None:
    assert (ROOT / f"tests/torch_internals/test_{surface}.py").is_file()


def test_what_is_slow_to_import_is_imported_once_it_is_called() -> None:
    names = [f"{INTERNALS}.{surface}" for surface in SURFACES] + ["lowbit_compiler.compile.driver", "lowbit_compiler.compile.explaining"]
    program = f"import sys, torch, {', '.join(names)}; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
