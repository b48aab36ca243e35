"""Links the package as it installs into .typeview/, for tools that read files and run no import hooks.

python tools/typeview.py            make the links
python tools/typeview.py --mypy     make them, run mypy, and fail if it saw fewer files than there are
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VIEW = ROOT / ".typeview"
INSIDE = {"passes": "passes", "runtime": "runtime"}  # folder in the repository -> folder in the package


def make() -> None:
    """Make the links anew."""
    shutil.rmtree(VIEW, ignore_errors=True)
    package = VIEW / "lowbit_compiler"
    package.mkdir(parents=True)
    for path in sorted((ROOT / "lowbit_compiler").iterdir()):
        if path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    for folder, name in INSIDE.items():
        (package / name).symlink_to(ROOT / folder)


def check() -> int:
    """Run mypy over the view; returns the exit status."""
    files = [path for folder in ("lowbit_compiler", *INSIDE) for path in (ROOT / folder).rglob("*.py")]
    result = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    print(result.stdout + result.stderr, end="")
    if result.returncode:
        return result.returncode
    seen = re.search(r"in (\d+) source files", result.stdout)
    if seen is None or int(seen[1]) < len(files):
        print(f"mypy checked {seen[1] if seen else 0} files, but there are {len(files)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    make()
    sys.exit(check() if "--mypy" in sys.argv[1:] else 0)
