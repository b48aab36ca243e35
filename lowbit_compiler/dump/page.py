"""One self-contained HTML page of a compilation: template, style and scripts of ours inlined, and the records as data."""

import json
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import DictLoader, Environment

from lowbit_compiler.dump.record import Record

SCRIPTS = ("data.js", "layout.js", "graph.js", "tree.js", "details.js", "table.js", "lines.js", "view.js", "search.js", "start.js")
_ASSETS = files("lowbit_compiler.dump") / "assets"


def page(records: Sequence[Record], title: str = "lowbit") -> str:
    """Return the page that shows ``records``, the graphs of one model; it asks the network for nothing."""
    environment = Environment(loader=DictLoader({"page.html": _asset("page.html")}), autoescape=True)
    return environment.get_template("page.html").render(
        title=title,
        style=_asset("style.css"),
        script="\n".join(_asset(name) for name in SCRIPTS),
        data=_inside_script(json.dumps([record.to_dict() for record in records], separators=(",", ":"))),
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _inside_script(text: str) -> str:
    """Return JSON that no HTML parser takes for markup: a module or a line of code may say ``</script>``."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
