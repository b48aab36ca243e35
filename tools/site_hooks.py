"""What `make site` adds to docs/ (mkdocs.yml): the documents of the root, the pictures of results, and a page of the public API.

The API's names are those that lowbit_compiler itself resolves, so there is no second list; docstrings are read, nothing is imported.
"""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"\]\(([^)#\s]+)")
PICTURES = ROOT / "bench" / "results"


def homes() -> dict[str, str]:
    """Return the public names, and the modules below lowbit_compiler that they come from."""
    for node in ast.parse((ROOT / "lowbit_compiler" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise SystemExit("site: lowbit_compiler/__init__.py has no _HOMES")


def api() -> str:
    """Return the page of the API."""
    entries = [f"::: lowbit_compiler.{home}.{name}" for name, home in sorted(homes().items())]
    return "\n\n".join(["# Python API", "All of these are attributes of `lowbit_compiler`.", *entries]) + "\n"


def linked(markdown: str, prefix: str) -> str:
    """Return the page with its links as they are on the site: ``prefix`` leads from it to the root. A file that is no page is only named."""

    def change(found: re.Match[str]) -> str:
        target = found[1]
        if "://" in target or not (path := target).startswith(prefix):
            return found[0]
        path = path.removeprefix(prefix)
        if path in PAGES:
            return f"]({PAGES[path]}"
        return f"]({path.removeprefix('docs/').replace('bench/results/', 'results/')}"

    markdown = LINK.sub(change, markdown)
    return re.sub(r"\[([^\]]*)\]\((?:examples|lowbit_compiler|csrc|runtime|passes|tests|bench)/[^)]*\)", r"\1", markdown)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and pictures that are outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=linked((ROOT / source).read_text(), "")))
    files.append(File.generated(config, "api.md", content=api()))
    for picture in sorted(PICTURES.glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links of docs/ to what lies outside it."""
    return markdown if page.file.generated_by else linked(markdown, "../")
