"""Files and functions stay small enough to read: 300 lines a file of code, 50 a function, in every language of the tree."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("lowbit_compiler", "passes", "runtime", "csrc", "tests", "bench", "tools", "examples")
CODE = (".py", ".js", ".css", ".html", ".h", ".cpp", ".cu", ".inc")
BRACED = (".js", ".h", ".cpp", ".cu", ".inc")
FILE, FUNCTION = 300, 50  # lines

NOT_CODE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:\\\n|[^\n])*"""  # comments; directives
    r"""|R"(?P<mark>\w*)\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`"""  # strings
    r"""|(?:(?<=[(,=:!&|?{}\n])|(?<=return))\ */(?![*/])(?:\\.|\[(?:\\.|[^\]\n])*\]|[^/\n\\])+/\w*""",  # regular expressions
    re.DOTALL | re.MULTILINE,
)
HEAD = re.compile(r"(?:\)|=>)\s*(?:(?:const|noexcept|override|mutable|final)\s*)*(?:->[\w\s:<>*&,]+)?(?::\s*\w+[({].*)?$", re.DOTALL)
"""What stands before the brace of a function, a lambda or an arrow function."""
STATEMENT = re.compile(r"^\s*(?:else\s+)?(?:if|for|while|switch|catch)\b")


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield name and lines of each function, from its ``def`` on."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def head_of(text: str) -> str:
    """Return what is said last in ``text``: back to the end of another statement or block, or to the bracket around it."""
    depth = 0
    for position in range(len(text) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(text[position], 0)
        if depth < 0 or (depth == 0 and text[position] in ";{}"):
            return text[position + 1 :]
    return text


def braced_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield head and lines of each function of C++, CUDA or JavaScript: braces are counted outside of comments and strings."""
    text = NOT_CODE.sub(lambda found: re.sub(r"[^\n]", "_" if found[0][0] in "\"'`R" else " ", found[0]), text)
    opened: list[tuple[str, int] | None] = []
    for brace in re.finditer(r"[{}]", text):
        line = text.count("\n", 0, brace.start())
        if brace[0] == "{":
            head = head_of(text[: brace.start()])
            first = line - head.lstrip().count("\n")
            opened.append((head.strip(), first) if HEAD.search(head) and not STATEMENT.match(head) else None)
        elif (function := opened.pop()) is not None:
            yield function[0], line - function[1] + 1
    assert not opened, "braces do not match"


FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in CODE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_size(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE
    functions = python_functions if path.suffix == ".py" else braced_functions if path.suffix in BRACED else lambda text: iter(())
    assert not [(name, lines) for name, lines in functions(text) if lines > FUNCTION]


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("int f(\n    int a) {\n  return a;\n}", [4]),
        ("template <int N>\nint f() const {\n  for (int i = 0; i < N; ++i) {\n  }\n}", [5]),
        ("struct A {\n  int f() { return 1; }\n};", [1]),
        ("parallel(tasks, [&](int begin) {\n  if (begin) {\n  } else {\n  }\n});", [5]),
        ("namespace a {\n#define F(x) x\nvoid f() {  // {\n  say(\"}\", '{');\n}\n}", [3]),
        ("function f(a, b = {}) {\n  return /[{]/.test(a);\n}", [3]),
        ("const f = (x) => {\n  return `{${x}`;\n};", [3]),
        ("auto f = [](int x) -> std::pair<int, int> {\n  return {x, x};\n};", [3]),
        ("switch (x) {\n}\nwhile (true) {\n}\nint a[] = {1};\nenum class E { A };", []),
    ],
)
def test_functions_in_braces_are_counted(code: str, lines: list[int]) -> None:
    assert [number for _, number in braced_functions(code)] == lines
