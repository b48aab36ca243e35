"""Imports go one way, nothing is imported relatively, private parts of torch stay behind one door, and files stay small enough to read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lowbit_compiler", "passes", "runtime")
FILES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))
LEAVES = {"lowbit_compiler.errors", "lowbit_compiler.recipes"}  # plain types that every layer may name
INTERNALS = "lowbit_compiler.torch_internals"  # imports nothing but torch, so every layer may use it
SURFACES = sorted(path.stem for path in (ROOT / "lowbit_compiler/torch_internals").glob("*.py") if path.stem != "__init__")
SLOW = ("torch._dynamo", "torch._inductor", "sympy")


def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.startswith("lowbit_compiler")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layer(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    allowed = {"runtime": ("lowbit_compiler.runtime",), "passes": ("lowbit_compiler.passes", "lowbit_compiler.runtime.ops")}.get(layer)
    for name in _imports(path):
        if allowed is not None:
            assert name in LEAVES or name.startswith((*allowed, INTERNALS)), f"{layer} must not import {name}"
        assert not name.startswith(("passes", "runtime"))


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
