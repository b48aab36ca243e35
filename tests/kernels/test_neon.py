"""The NEON kernel, cross-compiled and run under an emulator where both are installed: the same bits as the scalar kernel."""

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (COMPILER and EMULATOR), reason="needs aarch64-linux-gnu-g++ and qemu-aarch64")
def test_neon_equals_scalar(tmp_path):
    sources = [
        "common/isa.cpp",
        "common/select.cpp",
        *(f"{family}/scalar.cpp" for family in ("rows", "exact", "qgemm", "fgemm", "softmax", "attention")),
    ]
    files = [str(ROOT / "csrc" / s) for s in (*sources, "qgemm/neon.cpp")] + [str(Path(__file__).with_name("neon_check.cpp"))]
    program = str(tmp_path / "check")
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-march=armv8.2-a+dotprod", "-static", f"-I{ROOT / 'csrc'}"]
    subprocess.run([str(COMPILER), *flags, *files, "-o", program], check=True, timeout=120)
    done = subprocess.run([str(EMULATOR), "-cpu", "max", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("products equal\n")
