"""The NEON kernel and chains of it, cross-compiled and run under an emulator where both are installed: the same bits as the scalar kernel."""

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
ROOT = Path(__file__).parents[2]


KERNELS = [
    "common/isa.cpp",
    "common/select.cpp",
    *(f"{family}/scalar.cpp" for family in ("rows", "exact", "qgemm", "fgemm", "softmax", "attention")),
    "qgemm/neon.cpp",
]
CHAINS = [f"linear/{name}.cpp" for name in ("chain", "job", "prepare", "pack", "s8s8")]


@pytest.mark.skipif(not (COMPILER and EMULATOR), reason="needs aarch64-linux-gnu-g++ and qemu-aarch64")
@pytest.mark.parametrize(
    ("check", "sources", "told"),
    [("neon_check.cpp", KERNELS, "products equal\n"), ("chain_check.cpp", KERNELS + CHAINS, "chains equal with 1 instruction sets\n")],
)
def test_neon_equals_scalar(check, sources, told, tmp_path):
    files = [str(ROOT / "csrc" / source) for source in sources] + [str(Path(__file__).with_name(check))]
    program = str(tmp_path / "check")
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-march=armv8.2-a+dotprod", "-static", "-pthread", f"-I{ROOT / 'csrc'}"]
    subprocess.run([str(COMPILER), *flags, *files, "-o", program], check=True, timeout=240)
    done = subprocess.run([str(EMULATOR), "-cpu", "max", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(told)
