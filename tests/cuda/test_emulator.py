"""The emulator itself: it notices the mistakes that only a GPU would show, and multiplies as the PTX ISA describes."""

import ctypes
import shutil
import subprocess

import pytest
import torch

from helpers import bounds
from helpers.emulated import FLAGS, ROOT

MISTAKES = ["early read", "no wait", "no barrier", "half a warp", "two things", "unaligned", "past the end", "past shared"]
POISON = 0xFBFBFBFB - (1 << 32)  # as int32


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("faulty") / "libfaulty.so"
    include = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'cuda'}"]
    command = [compiler, *FLAGS, *include, "-shared", str(ROOT / "tests" / "cuda" / "faulty.cpp"), "-o", str(library)]
    subprocess.run(command, check=True, timeout=120)
    loaded = ctypes.CDLL(str(library))
    loaded.run_faulty.restype = ctypes.c_char_p
    return loaded


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def run(faulty, mistake, seed):
    source, out = torch.arange(256, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    error = faulty.run_faulty(MISTAKES.index(mistake), ctypes.c_int64(seed), pointer(source), pointer(out))
    return (error or b"").decode(), out


def test_mistakes_that_end_a_launch(faulty):
    said = {mistake: run(faulty, mistake, 0)[0] for mistake in MISTAKES}
    assert "copies that nothing waited for" in said["no wait"]
    assert "wait for ever" in said["half a warp"]
    assert said["two things"]
    assert "unaligned wide load" in said["unaligned"]
    assert "out of bounds: wide load" in said["past the end"]
    assert "a write past shared memory" in said["past shared"]


def test_mistakes_that_read_what_is_not_there_yet(faulty):
    assert (run(faulty, "early read", 0)[1] == POISON).all()
    assert all((run(faulty, "no barrier", seed)[1] == POISON).any() for seed in range(4))


def test_products_follow_the_ptx_isa(faulty):
    a, b = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((16, 32), (32, 8)))
    c = torch.empty(16, 8, dtype=torch.int32)
    faulty.run_product_s8(pointer(a), pointer(b), pointer(c))
    assert torch.equal(c, a.int() @ b.int())
    x, y = torch.randn(16, 16).bfloat16(), torch.randn(16, 8).bfloat16()
    z = torch.empty(16, 8)
    faulty.run_product_bf16(pointer(x), pointer(y), pointer(z))
    x, y = x.double(), y.double()
    bounds.assert_within(z, x @ y, 2 * bounds.EPS * (16 + 2) * (x.abs() @ y.abs()))  # 17 terms and their sum are truncated
