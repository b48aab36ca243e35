"""Documents name things that exist; every pass and every kernel line has a test."""

import re
from pathlib import Path

import pytest

from lowbit_compiler.options import DESCRIPTIONS, ENVIRONMENT
from lowbit_compiler.passes.pipeline import PASS_NAMES, runtime_exit, waist
from lowbit_compiler.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TOP = ("lowbit_compiler/", "passes/", "runtime/", "csrc/", "tests/", "docs/", "bench/", "tools/", "examples/", ".ci/")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_exist(document: Path) -> None:
    for name in re.findall(r"[\w./-]+", document.read_text()):
        path = name.rstrip(".")
        if path.startswith(TOP) and "<" not in path:
            assert (ROOT / path).exists(), f"{document.name} names {path}"


def test_options_are_documented() -> None:
    text = (ROOT / "docs" / "options.md").read_text()
    for name in (*DESCRIPTIONS, *ENVIRONMENT, *RECIPES):
        assert f"`{name}`" in text, name


def test_every_pass_has_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests" / "passes").glob("test_*.py"))
    for p in waist() + runtime_exit():
        assert p.name in tests, p.name
    assert len(PASS_NAMES) == len(list(waist() + runtime_exit()))
