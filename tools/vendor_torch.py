"""Copies the headers of torch's stable ABI that csrc/bind sees to third_party/torch, with torch's licence: `python tools/vendor_torch.py`.

The library is built from these alone, so that a build needs no torch, and is the same whichever torch is installed. `make headers` compiles the
sources against the headers of every torch that is promised.
"""

import importlib.metadata
import shutil
import subprocess
from pathlib import Path

from check_headers import FLAGS, SOURCES
from cxx import compiler

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "third_party" / "torch"


def included(include: Path) -> set[Path]:
    """Return the headers below ``include`` that a source of csrc/bind reads."""
    command = [compiler(), *FLAGS, "-isystem", str(include), "-M", *map(str, SOURCES)]
    rules = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    paths = {Path(word).resolve() for word in rules.replace("\\\n", " ").split() if not word.endswith(":")}
    return {path for path in paths if path.is_relative_to(include)}


def main() -> None:
    """Write the folder anew."""
    torch = importlib.metadata.distribution("torch")
    include = Path(str(torch.locate_file("torch/include"))).resolve()
    licence = next(Path(str(file.locate())) for file in torch.files or () if str(file).endswith(".dist-info/licenses/LICENSE"))
    shutil.rmtree(TARGET / "include", ignore_errors=True)
    for path in sorted(included(include)):
        made = TARGET / "include" / path.relative_to(include)
        made.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, made)
    shutil.copyfile(licence, TARGET / "LICENSE")
    (TARGET / "VERSION").write_text(torch.version.partition("+")[0] + "\n")


if __name__ == "__main__":
    main()
