"""Imports go one way, nothing is imported relatively, and files stay small enough to read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lowbit_compiler", "passes", "runtime")
FILES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))
LEAVES = {"lowbit_compiler.errors", "lowbit_compiler.recipe"}  # plain types that every layer may name


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
            assert name in LEAVES or name.startswith(allowed), f"{layer} must not import {name}"
        assert not name.startswith(("passes", "runtime"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_size_and_docstring(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)), "a file says what its one idea is"
