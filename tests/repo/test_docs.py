"""Documents name things that exist; every pass and every kernel line has a test."""

import ast
import hashlib
import re
from pathlib import Path

import pytest

from lowbit_compiler.options import DESCRIPTIONS, ENVIRONMENT
from lowbit_compiler.passes.pipeline import PASS_NAMES, runtime_exit, waist
from lowbit_compiler.recipes import RECIPES
from lowbit_compiler.runtime.formats import WORDS
from lowbit_compiler.runtime.treatments import TREATMENTS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TOP = ("lowbit_compiler/", "passes/", "runtime/", "csrc/", "tests/", "docs/", "bench/", "tools/", "examples/", ".ci/")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_exist(document: Path) -> None:
    for name in re.findall(r"[\w./-]+", document.read_text()):
        path = name.rstrip(".")
        if path.startswith(TOP) and "<" not in path:
            assert (ROOT / path).exists(), f"{document.name} names {path}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_merges_are_whole(document: Path) -> None:
    """No parser reads these files, so nothing else stumbles over what git leaves of two versions."""
    assert not re.findall(r"^(?:<{7}|={7}|>{7})(?: .*)?$", document.read_text(), re.MULTILINE)


def test_options_are_documented() -> None:
    text = (ROOT / "docs" / "options.md").read_text()
    for name in (*DESCRIPTIONS, *ENVIRONMENT, *RECIPES, *WORDS, *TREATMENTS):
        assert f"`{name}`" in text, name


def test_objects_are_where_the_architecture_says() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `([\w/]+\.py)` \|", text, re.MULTILINE)
    assert len(rows) >= 15
    for names, file in rows:
        classes = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.ClassDef)}
        assert set(re.findall(r"\w+", names)) <= classes, file


def test_new_things_go_where_there_are_some() -> None:
    for document in ("CONTRIBUTING.md", "docs/architecture.md"):
        places = re.findall(r"`([\w/]+)/<\w+>(\.\w+)`", (ROOT / document).read_text())
        assert places
        for folder, suffix in places:
            assert list((ROOT / folder).glob(f"*{suffix}")), f"{document} names {folder}"


def test_the_picture_of_the_layers_is_of_the_table_as_it_is() -> None:
    tree = ast.parse((ROOT / "tests" / "repo" / "test_layering.py").read_text())
    (table,) = (node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ALLOWED")
    assert table is not None
    digest = hashlib.sha256(repr(ast.literal_eval(table)).encode()).hexdigest()
    assert digest.encode() in (ROOT / "docs" / "layers.png").read_bytes(), "python bench/layers/picture.py draws it anew"


def test_every_pass_has_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests" / "passes").glob("test_*.py"))
    for p in waist() + runtime_exit():
        assert p.name in tests, p.name
    assert len(PASS_NAMES) == len(list(waist() + runtime_exit()))
