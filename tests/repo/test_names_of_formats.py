"""What is general names no format and no treatment: adding one is a file of its own, and no change there.

Wrong are, in code and in strings but not in comments and docstrings: names and words of formats, also inside the names of ops
(``linear_s8s8``); the ops and classes of treatments; and their names as whole strings (a variable ``rows`` counts rows; "none" is
also an argument of torch's GELU). Dtypes of torch are no formats: ``torch.int8`` is what codes are stored as.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowbit_compiler.runtime.formats import FORMATS
from lowbit_compiler.runtime.treatments import TREATMENTS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("passes", *(f"lowbit_compiler/{name}" for name in ("compile", "dump", "debug", "pricing")))
PYTHON = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

FORMAT_WORDS = {re.sub(r"<\w+>", r"\\d+", re.escape(word)) for format in FORMATS for word in (format.name, *format.words)}
CLASSES = {kind.__name__ for kind in (*FORMATS, *TREATMENTS.values())}
TREATMENT_WORDS = set(TREATMENTS) - {"none"}
TREATMENT_OPS = {op.schema.partition("(")[0] for treatment in TREATMENTS.values() for op in treatment.ops}
FORMAT = re.compile(rf"(?<![a-z])(?:{'|'.join(sorted(FORMAT_WORDS))})(?!\d)", re.IGNORECASE)
OP = re.compile(rf"\b(?:{'|'.join(sorted(TREATMENT_OPS))})\b")


def named(text: str) -> bool:
    """Return whether an identifier or a string names a format or the op or class of a treatment."""
    return bool(FORMAT.search(text) or OP.search(text)) or text in CLASSES


def dtypes(tree: ast.AST) -> set[ast.AST]:
    """Return the attributes that are of torch itself."""
    return {node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch"}


def docstrings(tree: ast.AST) -> set[ast.AST]:
    """Return the strings that stand as statements of their own: docstrings of modules, classes, functions and fields."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}


def identifiers(node: ast.AST) -> Iterator[str]:
    """Yield the names in ``node`` itself."""
    for field in ("id", "attr", "arg", "name", "asname", "module"):
        if isinstance(text := getattr(node, field, None), str):
            yield text


def names_in(text: str) -> list[tuple[int, str]]:
    """Return line and name of every format and treatment that Python code names."""
    tree = ast.parse(text)
    ignored = dtypes(tree) | docstrings(tree)
    found = []
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if named(node.value) or node.value in TREATMENT_WORDS:
                found.append((node.lineno, node.value))
        else:
            found += [(getattr(node, "lineno", 0), name) for name in identifiers(node) if named(name)]
    return sorted(found)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_format_or_treatment_is_named(path: Path) -> None:
    found = names_in(path.read_text())
    assert not found, "decide by what a format or treatment says of itself: its own file, or the table of products"
    assert not named(path.stem)


@pytest.mark.parametrize(
    "code",
    [
        "if recipe.weights == 'int8': pass",
        "if recipe.weights == 'e4m3': pass",
        "ops.linear_s8s8(x)",
        "ops.quantize_s4.default",
        "name = f'pack_s8 of {name}'",
        "from lowbit_compiler.runtime.formats.s4 import FORMAT",
        "from lowbit_compiler.runtime.treatments import Rotation",
        "ops.rotate(x)",
        "def split_columns(): pass",
        "if treatment.name == 'rows': pass",
    ],
)
def test_a_name_is_found(code: str) -> None:
    assert names_in(code)


@pytest.mark.parametrize(
    "code",
    [
        "gelu(x, 'none')",
        "rows, columns, none = x.shape",
        "x.to(torch.int8)",
        "'''int8'''",
        "x.uint8",
        "# rotate\nx",
        "'a table of rows'",
        "treatment.rotates",
    ],
)
def test_what_names_none_is_left_alone(code: str) -> None:
    assert not names_in(code)
