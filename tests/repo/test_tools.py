"""The tools that call a C++ compiler: what they say without one, and where they build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import sanitize


@pytest.mark.parametrize("tool", ["sanitize", "check_headers"])
def test_without_a_compiler(tool: str) -> None:
    command = [sys.executable, str(TOOLS / f"{tool}.py")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | {"CXX": "no-such-compiler"})
    assert done.returncode == 1
    assert done.stderr == "no C++ compiler 'no-such-compiler': install it, or name another one in CXX\n"


def test_each_environment_has_its_own_build() -> None:
    """CMake remembers where ninja is: in the environment, which may be removed."""
    program = "import sys; sys.prefix, folder = sys.argv[1:]; sys.path.insert(0, folder); import sanitize; print(sanitize.FOLDER)"
    folders = {
        subprocess.run([sys.executable, "-c", program, f"/{name}", str(TOOLS)], check=True, capture_output=True, text=True).stdout
        for name in (".venv", ".venv-newest")
    }
    assert folders == {f"{TOOLS.parent / 'build' / name}\n" for name in ("sanitize-venv", "sanitize-venv-newest")}


def test_what_another_compiler_built_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize, "FOLDER", tmp_path / "build")
    sanitize.remove_of_other_compiler("/usr/bin/g++")  # nothing is there
    for cached, stays in (("/usr/bin/g++", True), ("/usr/bin/g++-13", False)):
        sanitize.FOLDER.mkdir(exist_ok=True)
        (sanitize.FOLDER / "CMakeCache.txt").write_text(f"CMAKE_CXX_COMPILER:STRING={cached}\nLOWBIT_SANITIZE:BOOL=ON\n")
        sanitize.remove_of_other_compiler("/usr/bin/g++")
        assert sanitize.FOLDER.exists() == stays
