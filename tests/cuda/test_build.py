"""The CUDA library compiles for every target, loads on any torch, and has a kernel for every op it names; no GPU is needed for that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowbit_compiler.runtime.cuda_library import OPS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import build_cuda

pytestmark = pytest.mark.skipif(build_cuda.find_nvcc() is None, reason="needs nvcc")
TARGETS = build_cuda.TARGETS if os.environ.get("CI") else build_cuda.TARGETS[:1]  # one takes a minute, all four some minutes
PROGRAM = """
import torch
from lowbit_compiler import runtime
assert runtime.cuda_library.status().path is not None, runtime.cuda_library.status().reason
for op in runtime.cuda_library.OPS:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"lowbit::{op}", "CUDA"), op
print(runtime.cuda_library.kernel_for("linear_s8s8", 1, 4096), runtime.cuda_library.kernel_for("linear_s8s8_rows", 4096, 4096))
print(runtime.cuda_library.kernel_for("linear_fs4", 1, 4096), runtime.cuda_library.kernel_for("sdpa", 1, 1))
"""


@pytest.fixture(scope="module")
def built():
    # An own folder each time would compile for minutes: what did not change is taken from the last run.
    output = ROOT / "build" / "cuda-test" / "liblowbit_cuda.so"
    return output, build_cuda.build(output, TARGETS)


def test_it_loads_and_registers_every_op(built):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LOWBIT_")} | {"LOWBIT_CUDA_LIBRARY": str(built[0])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["mma_s8_16x32_k8", "mma_s8_128x128", "fma_few_rows", "reference"]


def test_every_target_has_every_kernel(built):
    kernels = {target: {row.kernel for row in built[1] if row.target == target} for target in TARGETS}
    assert {len(names) for names in kernels.values()} == {len(kernels["sm_80"])}
    for name in ("integer_product", "float_product", "quantize_rows", "softmax_rows", "pack_words", "few"):
        assert any(name in kernel for kernel in kernels["sm_80"]), name


def test_nothing_is_spilled(built):
    assert [row for row in built[1] if row.spilled] == []


def test_it_asks_torch_for_nothing_new(built):
    """All undefined symbols of the stable ABI are of 2.11 or older."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(built[0])], check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1] for line in listed.splitlines()}
    assert not {name for name in names if name.startswith("torch_exception_get_what")} | {name for name in names if "stable_ivalue" in name}
    assert "aoti_torch_get_current_cuda_stream" not in names  # a torch without CUDA does not have it


def test_all_ops_have_a_kernel_in_the_binding():
    text = (ROOT / "csrc" / "bind" / "ops.h").read_text() + (ROOT / "csrc" / "bind" / "cuda.cpp").read_text()
    assert all(f'm.impl("{op}"' in text for op in OPS)
