"""The CUDA library compiles for every target, loads on any torch, and has a kernel for every op it names; no GPU is needed for that."""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lowbit_compiler.runtime.products import KEYS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import build_cuda

NVCC = build_cuda.find_nvcc()
TARGETS = build_cuda.known_targets(NVCC, build_cuda.TARGETS) if NVCC else ()
OPS = {
    *(
        KEYS.keys()
        - {"linear_s8d8", "linear_s8d8_rotated", "linear_s8ternary", "linear_fnf4", "linear_fiq4", "linear_fz4", "linear_fz6"}
        - {"linear_s8s8_shared", "linear_s8s8_shared_rotated"}
    ),
    "pack_s8", "pack_s4", "pack_ternary", "pack_ternary_grouped", "quantize_s8", "quantize_s4", "rotate", "softmax",
}  # fmt: skip
"""The ops with a CUDA kernel; the others run in plain torch."""
SHIMS = ("stable/c", "inductor/aoti_torch/c")


def needs_nvcc(test):
    """Compiling for all targets takes minutes."""
    return pytest.mark.model(pytest.mark.skipif(NVCC is None, reason="needs nvcc")(test))


PROGRAM = """
import torch
from lowbit_compiler import runtime
assert runtime.cuda_library.status().path is not None, runtime.cuda_library.status().reason
names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("lowbit::")]
print(*(name.removeprefix("lowbit::") for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")))
print(runtime.cuda_library.kernel_for("linear_s8s8", 1, 4096), runtime.cuda_library.kernel_for("linear_s8s8_rows", 4096, 4096))
print(runtime.cuda_library.kernel_for("linear_fternary", 1, 4096), runtime.cuda_library.kernel_for("linear_s8ternary", 1, 4096))
"""


@pytest.fixture(scope="module")
def built():
    # An own folder each time would compile for minutes: what did not change is taken from the last run, or from another process of this one.
    output = ROOT / "build" / "cuda-test" / "liblowbit_cuda.so"
    output.parent.mkdir(parents=True, exist_ok=True)
    with (output.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return output, build_cuda.build(output, TARGETS)


@needs_nvcc
def test_it_loads_and_registers_every_op(built):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LOWBIT_")} | {"LOWBIT_CUDA_LIBRARY": str(built[0])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ops, *kernels = done.stdout.splitlines()
    assert set(ops.split()) == OPS
    assert kernels == ["mma_s8_16x32_k8 mma_s8_128x128", "mma_few_rows reference"]


@needs_nvcc
def test_every_target_has_every_kernel(built):
    kernels = {target: {row.kernel for row in built[1] if row.target == target} for target in TARGETS}
    assert {len(names) for names in kernels.values()} == {len(kernels[TARGETS[0]])}
    for name in ("integer_product", "float_product", "quantize_rows", "softmax_rows", "pack_words", "few"):
        assert any(name in kernel for kernel in kernels[TARGETS[0]]), name


@needs_nvcc
def test_nothing_is_spilled(built):
    assert [row for row in built[1] if row.spilled] == []


def since(text):
    """Return the functions of torch's C headers with the release they need: those within `#if TORCH_FEATURE_VERSION >= ...`."""
    found, inside = {}, []
    for line in text.splitlines():
        if re.match(r"\s*#\s*if", line):
            asked = re.search(r"TORCH_FEATURE_VERSION >= TORCH_VERSION_(\d+)_(\d+)", line)
            inside.append((int(asked[1]), int(asked[2])) if asked else (0, 0))
        elif re.match(r"\s*#\s*endif", line):
            inside.pop()
        for name in re.findall(r"\b((?:aoti_)?torch_\w+)\(", line):
            found[name] = max(inside, default=(0, 0))
    return found


@needs_nvcc
def test_it_asks_torch_for_nothing_new(built):
    """Every function of torch that it needs is in the C headers, and not newer than 2.11."""
    folder = build_cuda.torch_folder() / "include" / "torch" / "csrc"
    known = since("\n".join(header.read_text() for shim in SHIMS for header in sorted((folder / shim).glob("*.h"))))
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(built[0])], check=True, capture_output=True, text=True).stdout
    asked = {name for name in (line.split()[-1] for line in listed.splitlines()) if "torch" in name}
    assert len(asked) > 5
    assert {name: known.get(name) for name in asked if known.get(name, (9, 9)) > (2, 11)} == {}
    assert "aoti_torch_get_current_cuda_stream" not in asked  # a torch without CUDA does not have it


def test_what_is_new_is_seen():
    text = """
    AOTI_TORCH_EXPORT int aoti_torch_old(int a);
    #if TORCH_FEATURE_VERSION >= TORCH_VERSION_2_12_0
    #ifdef X
    AOTI_TORCH_EXPORT int torch_new(
        int a);
    #endif
    #endif
    int torch_plain();
    """
    assert since(text) == {"aoti_torch_old": (0, 0), "torch_new": (2, 12), "torch_plain": (0, 0)}


@needs_nvcc
def test_its_kernels_are_those_that_are_watched(built):
    """`make gpu-sanitize` asks for kernels with "lowbit" in their mangled names."""
    assert all("lowbit" in row.kernel for row in built[1])


def test_targets_that_nvcc_does_not_know_are_left_out(tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho sm_80\necho sm_89\necho sm_90\n")
    nvcc.chmod(0o755)
    assert build_cuda.known_targets(str(nvcc), build_cuda.TARGETS) == ("sm_80", "sm_89", "sm_90a")
    with pytest.raises(SystemExit, match="knows none of sm_100; it knows sm_80, sm_89, sm_90"):
        build_cuda.known_targets(str(nvcc), ("sm_100",))


def test_nvcc_is_the_file_that_is_named(tmp_path, monkeypatch):
    for folder in ("named", "home/bin"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "nvcc").touch(mode=0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDACXX", str(tmp_path / "named" / "nvcc"))
    assert build_cuda.find_nvcc() == str(tmp_path / "named" / "nvcc")
    monkeypatch.delenv("CUDACXX")
    assert build_cuda.find_nvcc() == str(tmp_path / "home" / "bin" / "nvcc")
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nothing"))
    assert build_cuda.find_nvcc() is None


def test_objects_of_other_flags_and_versions_lie_elsewhere(tmp_path, monkeypatch):
    one = build_cuda.object_folder(tmp_path / "l.so", ("sm_80",), "nvcc 13.0", "torch 2.13")
    others = {one, build_cuda.object_folder(tmp_path / "l.so", ("sm_80",), "nvcc 13.1", "torch 2.13")}
    others.add(build_cuda.object_folder(tmp_path / "l.so", ("sm_80",), "nvcc 13.0", "torch 2.14"))
    monkeypatch.setattr(build_cuda, "FLAGS", [*build_cuda.FLAGS, "-G"])
    others.add(build_cuda.object_folder(tmp_path / "l.so", ("sm_80",), "nvcc 13.0", "torch 2.13"))
    assert len(others) == 4


def test_all_ops_have_a_kernel_in_the_binding():
    text = (ROOT / "csrc" / "bind" / "ops.h").read_text() + (ROOT / "csrc" / "bind" / "cuda.cpp").read_text()
    formats = re.findall(r"^  X\((\w+), \w+\)", (ROOT / "csrc" / "formats" / "formats.h").read_text(), re.MULTILINE)
    of_formats = {f"{op}{name}" for name in formats for op in ("linear_f", "pack_")}
    assert of_formats
    assert all(f'm.impl("{op}"' in text or op in of_formats for op in OPS)
