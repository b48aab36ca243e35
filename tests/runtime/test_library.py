"""Loading of the native library and the environment variables that govern it; each case in its own process."""

import hashlib
import os
import re
from pathlib import Path

import pytest
import torch

from helpers import forks
from lowbit_compiler.runtime import library

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = "\n".join(path.read_text() for path in sorted(CSRC.rglob("*")) if path.is_file())
PROGRAM = """
import torch
from lowbit_compiler.runtime import library, ops
s = library.status()
x, w = torch.randn(3, 70), torch.randn(20, 70)
y = torch.ops.lowbit.linear_s8s8(x, torch.ops.lowbit.pack_s8(*torch.ops.lowbit.quantize_s8(w)), None, 20, None)
print(s.isa, "|", s.reason, "|", tuple(y.shape))
"""


def run(**environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LOWBIT_") or k == "LOWBIT_LIBRARY"}
    return forks.run(PROGRAM, environment=clean | environment)


def last_line(text):
    return text.strip().splitlines()[-1]


needs_library = pytest.mark.skipif(library.handle() is None, reason="no native library")


def test_without_library():
    done = run(LOWBIT_NATIVE="0")
    assert done.stdout.strip() == "None | LOWBIT_NATIVE=0 | (3, 20)", done.stderr


@needs_library
@pytest.mark.parametrize("isa", library.status().detected)
def test_isa_cap(isa):
    done = run(LOWBIT_ISA=isa)
    assert done.stdout.strip() == f"{isa} | None | (3, 20)", done.stderr


@pytest.mark.parametrize("native", ["0", "1"])
def test_unknown_isa(native):
    done = run(LOWBIT_ISA="sse9", LOWBIT_NATIVE=native)
    assert last_line(done.stderr) == "ValueError: LOWBIT_ISA: expected one of scalar, avx2, vnni, bf16, amx, neon, got 'sse9'"


@needs_library
def test_isa_this_machine_lacks():
    missing = next(name for name in ("neon", "amx") if name not in library.status().detected)
    done = run(LOWBIT_ISA=missing)
    assert last_line(done.stderr) == f"ValueError: LOWBIT_ISA: this machine has {', '.join(library.status().detected)}, got {missing!r}"


def test_unknown_native():
    assert last_line(run(LOWBIT_NATIVE="maybe").stderr) == "ValueError: LOWBIT_NATIVE: expected 0 or 1, got 'maybe'"


def test_library_that_cannot_be_loaded(tmp_path):
    path = tmp_path / "broken.so"
    path.write_text("not a library")
    done = run(LOWBIT_LIBRARY=str(path))
    assert f"OSError: LOWBIT_LIBRARY: cannot load {path}" in done.stderr


@pytest.fixture
def of_another_build(tmp_path):
    path = tmp_path / library.FILE
    path.write_bytes(library.library_path().read_bytes().replace(library.ABI, b"lowbit abi 0\0"))
    return path


OTHER = "it was built for other Python files than these: build it again"


@needs_library
def test_library_of_another_build_that_is_named(of_another_build):
    done = run(LOWBIT_LIBRARY=str(of_another_build))
    assert last_line(done.stderr) == f"OSError: LOWBIT_LIBRARY: cannot load {of_another_build}: {OTHER}"


@needs_library
def test_library_of_another_build(of_another_build, monkeypatch):
    """It isn't loaded: then its kernels would be those of the ops."""
    for name in ("_handle", "_path", "_reason"):
        monkeypatch.setattr(library, name, None)
    monkeypatch.setattr(library, "library_path", lambda: of_another_build)
    monkeypatch.delenv("LOWBIT_LIBRARY", raising=False)
    library.load()
    assert library.status() == library.Status(None, f"{of_another_build} cannot be loaded: {OTHER}")
    assert of_another_build.name in Path("/proc/self/maps").read_text()
    assert str(of_another_build) not in Path("/proc/self/maps").read_text()


WARNED = """
import torch, lowbit_compiler
run = torch.compile(torch.nn.Linear(4, 4), backend="lowbit", options={"remainder": "eager"})
for shape in ((1, 4), (4,)):  # two graphs
    run(torch.zeros(shape))
"""


@pytest.mark.parametrize(("native", "warnings"), [("1", 1), ("0", 0)])
def test_the_first_compilation_warns_of_a_missing_library(native, warnings):
    missing = "import importlib.resources, pathlib; importlib.resources.files = lambda package: pathlib.Path('/nowhere')\n"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LOWBIT_")}
    done = forks.run(missing + WARNED, environment=clean | {"LOWBIT_NATIVE": native})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"plain torch, slowly: /nowhere/lib/{library.FILE} does not exist") == warnings, done.stderr


def with_kernels():
    formats = re.findall(r"^  X\((\w+), \w+\)", (CSRC / "formats" / "formats.h").read_text(), re.MULTILINE)
    of_formats = {f"{op}{name}" for name in formats for op in ("linear_f", "pack_", "quantize_")}
    return sorted({*re.findall(r'\bm\.impl\("(\w+)"', SOURCES), *of_formats})


def test_what_a_library_must_fit():
    """Where this fails: another number in csrc/bind/abi.cpp and runtime/library.py, then the digest that is shown here."""
    lines = sorted(set(re.findall(r"^LOWBIT_EXPORT [^{=;]+\)", SOURCES, re.MULTILINE)))
    for op in with_kernels():
        schema = getattr(torch.ops.lowbit, op).default._schema
        lines.append(f"{op}: {', '.join(str(each.type) for each in (*schema.arguments, *schema.returns))}")
    assert (library.ABI, hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]) == (b"lowbit abi 11\0", "8208499baaa82e93")


DEFINED = """
import ctypes, sys, torch
if sys.argv.pop(1) == "True":
    import lowbit_compiler.runtime
ctypes.CDLL(sys.argv[1])
print(*(getattr(torch.ops.lowbit, op).default._schema for op in sys.argv[2:]), sep="\\n")
"""


@pytest.mark.skipif(library.ops_path() is None, reason="no library for programs without Python")
@pytest.mark.parametrize("python", [False, True])
def test_ops_are_the_same_without_python(python):
    """What csrc/bind/schemas.cpp defines is what runtime/ops.py does, for every op that has a kernel; beside that it does no harm."""
    done = forks.run(DEFINED, str(python), str(library.ops_path()), *with_kernels())
    assert done.stdout.splitlines() == [str(getattr(torch.ops.lowbit, op).default._schema) for op in with_kernels()], done.stderr


@needs_library
def test_status_names_the_file():
    status = library.status()
    assert status.path is not None
    assert status.path.exists()
    assert status.reason is None
    assert status.isa in status.active
    assert set(status.active) <= set(status.detected)
