"""The tables of docs/int4.md, from bench/results/int4.json and gptq.json:

python bench/accuracy/int4_docs.py          writes them into the page
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1]
RESULTS, PAGE = BENCH / "results", BENCH.parent / "docs" / "int4.md"
WORDS = "word error rate"
FURTHER = (WORDS, f"{WORDS} of the float model")
"""What rows may have beside divergence and perplexity."""
Row = dict[str, Any]


def cells(rows: dict[str, Row]) -> Iterator[list[str]]:
    """Yield the head of a model's table and its rows."""
    first = next(iter(rows.values()))
    texts = [name for name, value in first.items() if isinstance(value, dict) and "perplexity" in value]
    more = [name for name in first if name in FURTHER]
    yield ["", "bits", "seconds", *(cell for name in texts for cell in (f"KL {name}", f"perplexity {name}, %")), *more]
    for name, row in rows.items():
        each = [cell for text in texts for cell in (f"{row[text]['divergence x 100']:.2f}", f"{row[text]['change, percent']:+.2f}")]
        yield [name, f"{row['bits']:.2f}", f"{row['seconds']:.0f}" if row["seconds"] else "", *each, *(f"{row[one]:.3f}" for one in more)]


def models(content: dict[str, dict[str, Row]]) -> str:
    """Return a table for each model that has rows."""
    return "\n\n".join(f"**{name}**\n\n{_table(list(cells(rows)))}" for name, rows in content.items() if rows)


def settings(content: dict[str, Any]) -> str:
    """Return the table of what GPTQ's settings are worth."""
    rows = content["rows"]
    texts = list(next(iter(rows.values())))
    return _table([["", *texts], *([name, *(f"{row[text]:.3f}" for text in texts)] for name, row in rows.items())])


def _table(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


TABLES = {"int4.json": models, "gptq.json": settings}
"""By the result file, which names the place in the page."""


def filled(page: str) -> str:
    """Return the page with the tables of all result files that are there."""
    for name, table in TABLES.items():
        if (RESULTS / name).exists():
            text = table(json.loads((RESULTS / name).read_text()))
            page = re.sub(
                rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)",
                lambda found, text=text: f"{found[1]}{text}\n{found[2]}",
                page,
                flags=re.DOTALL,
            )
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
