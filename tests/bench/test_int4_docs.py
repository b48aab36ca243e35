"""docs/int4.md has the tables of the result files."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "accuracy" / "int4_docs.py"


def test_the_page_is_that_of_the_result_files() -> None:
    spec = importlib.util.spec_from_file_location("int4_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    page = docs.PAGE.read_text()
    assert docs.filled(page) == page
    assert docs.filled(page.replace("| int4-weight-only |", "| another |")) == page != page.replace("| int4-weight-only |", "| another |")
