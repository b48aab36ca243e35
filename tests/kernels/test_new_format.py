"""A packed format takes one header, a line in the list of formats and a line for each of its kernels: a copy of csrc that has another one."""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from helpers import emulated, operands

HERE = Path(__file__).parent
COMPILER = shutil.which(os.environ.get("CXX") or "g++")
KERNELS = (
    "fgemm_f32t2_4x16_scalar, kScalar, 0, kAny",
    "fgemm_f32t2_6x16_avx2, kAvx2, 0, kAny",
    "fgemv_f32t2_4x16_vnni, kVnni, 0, kAny",
    "fgemm_f32t2_12x16_vnni, kVnni, 9, kAny",
    "fgemm_bf16t2_32x32x32_amx, kAmx, 4, kBF16Only",
)
AVX512 = "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni"
FLAGS = {"scalar": "", "avx2": "-mavx2 -mfma -mf16c", "vnni": AVX512, "amx": f"{AVX512} -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16"}
BASELINE = (
    "common/isa",
    "common/select",
    "rows/scalar",
    "linear/float",
    "linear/pack",
    "linear/pack_lines",
    "linear/prepare",
    "linear/product",
    "linear/job",
    "linear/s8s8",
)

pytestmark = [pytest.mark.model, pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")]


@pytest.fixture
def csrc(tmp_path):
    """A copy of csrc with the format t2; of the other formats it has no kernels."""
    folder = tmp_path / "csrc"
    shutil.copytree(emulated.ROOT / "csrc", folder)
    shutil.copy(HERE / "new_format.h", folder / "formats" / "t2.h")
    listed = folder / "formats" / "formats.h"
    text = listed.read_text()
    listed.write_text(
        text.replace("#pragma once\n", '#pragma once\n#include "formats/t2.h"\n').replace("  X(s4, S4)", "  X(t2, T2) X(s4, S4)")
    )
    lines = ("rows, rows_scalar, kScalar, 0, kAny", *(f"fgemm_t2, {kernel}" for kernel in KERNELS))
    (folder / "common" / "kernels.inc").write_text("".join(f"LOWBIT_KERNEL({line})\n" for line in lines))
    return folder


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are of x86-64")
def test_on_the_cpu(csrc, tmp_path):
    sources = [(csrc / f"{name}.cpp", "") for name in BASELINE] + [(csrc / "fgemm" / f"{isa}.cpp", flags) for isa, flags in FLAGS.items()]
    sources.append((HERE / "new_format_check.cpp", ""))

    def compile_one(number):
        source, flags = sources[number]
        made = str(tmp_path / f"{number}.o")
        command = [COMPILER, "-std=c++17", "-O1", "-ffp-contract=off", f"-I{csrc}", *flags.split(), "-c", str(source), "-o", made]
        subprocess.run(command, check=True, timeout=240)
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, range(len(sources))))
    program = str(tmp_path / "check")
    subprocess.run([COMPILER, *objects, "-o", program], check=True, timeout=120)
    done = subprocess.run([program], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(" products, 0 differences\n")


def test_on_cuda(csrc, tmp_path):
    """Emulated: small integers and powers of two, so that products are exact."""
    machine = emulated.Emulated(emulated.build(tmp_path, COMPILER, csrc))
    for n, k, group in [(1, 7, 32), (17, 65, 64), (40, 300, 128)]:
        q = operands.codes(n, k, largest=1)
        scale = 2.0 ** torch.randint(-2, 3, (n, -(-k // group)), generator=operands.generator(6))
        kp = -(-k // max(group, 64)) * max(group, 64)
        packed = machine.pack(q, scale, group, torch.empty(-(-n // 16), 4 * kp + kp // group * 64), "t2")
        w = q.double() * scale.double().repeat_interleave(group, 1)[:, :k]
        for m in (1, 2, 4, 9, 70):
            for dtype in operands.DTYPES:
                x = torch.randint(-16, 17, (m, k), generator=operands.generator(4)).to(dtype)
                y = machine.linear("linear_ft2", x, packed, None, n, group, torch.float32)
                assert torch.equal(y, (x.double() @ w.t()).float())
