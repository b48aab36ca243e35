"""Whether the native library is built: never left out in silence, whatever an earlier set-up left behind; and set up once at a time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

needs_cmake = pytest.mark.skipif(
    not (BIN / "cmake").exists() or sys.platform != "linux", reason="make test installs cmake; built on Linux only"
)


def configure(build: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(build), *arguments]
    clean = {name: value for name, value in os.environ.items() if name not in ("LOWBIT_CPU", "CXX")}
    paths = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=clean | paths | environment)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout, " ".join(done.stderr.split()))


@needs_cmake
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_a_cache_without_the_compiler_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "CMakeCache.txt").write_text(
        f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\nCMAKE_CXX_COMPILER:FILEPATH=CMAKE_CXX_COMPILER-NOTFOUND\n"
    )
    done = configure(tmp_path, LOWBIT_CUDA="0")
    assert "The CXX compiler identification is" in done.stdout
    assert "NO NATIVE LIBRARY" not in done.stderr
    assert done.returncode == 0


@needs_cmake
def test_a_compiler_that_does_not_work(tmp_path: Path) -> None:
    done = configure(tmp_path, CXX=shutil.which("false") or "")
    assert "the native library cannot be built: there is" in done.stderr
    assert "no C++ compiler that works, CXX='" in done.stderr
    assert "LOWBIT_CPU=0 in the environment installs the package without it." in done.stderr
    assert done.returncode == 1


@needs_cmake
@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"LOWBIT_CPU": "0"}, "LOWBIT_CPU=0"), ({"CXX": "no-such-compiler", "PATH": str(BIN)}, "no C++ compiler found")],
)
def test_without_the_library(environment: dict[str, str], reason: str, tmp_path: Path) -> None:
    done = configure(tmp_path, "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", **environment)
    assert f"lowbit: NO NATIVE LIBRARY: {reason}. Everything works, slowly, on plain torch." in done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(not all(map(shutil.which, ("make", "flock"))), reason="no make or no flock")
def test_two_calls_of_make_set_up_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = tmp_path / ".venv"
    settings = [f"VENV={environment}", f"SKBUILD_BUILD_DIR={tmp_path}/build/venv", "PYTHON=true", f"PIP=sleep 0.1; echo >>{log}"]
    command = ["make", "-C", str(ROOT), *settings, f"{environment}/.stamps/native"]
    calls = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    for call in calls:
        assert call.wait() == 0, call.communicate()[0]
    steps = [line.split(maxsplit=1)[0] for line in log.read_text().splitlines()]
    assert steps == ["--upgrade", "torch==2.13.0", "scikit-build-core>=0.11", "--no-build-isolation"]
