"""The wheel holds the package with passes and runtime inside it, and no other top-level name."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    importlib.util.find_spec("scikit_build_core") is None, reason="building needs scikit-build-core (make test installs it)"
)
def test_wheel(tmp_path: Path) -> None:
    # The pure-Python package is what is built, in seconds, and must be complete.
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    environment = os.environ | {"LOWBIT_CPU": "0", "SKBUILD_BUILD_DIR": f"{tmp_path}/build"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"lowbit_compiler"}
    for folder, inside in (("lowbit_compiler", ""), ("passes", "passes/"), ("runtime", "runtime/")):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"lowbit_compiler/{inside}{path.relative_to(ROOT / folder).as_posix()}" in names
    assert "lowbit_compiler/py.typed" in names
    for path in (ROOT / "lowbit_compiler" / "dump").rglob("*.*"):  # the page's template, style and scripts, and the schema
        assert path.suffix == ".pyc" or path.relative_to(ROOT).as_posix() in names
