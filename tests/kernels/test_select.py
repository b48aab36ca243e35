"""Which kernel is chosen for which ISA mask, M and dtype; the choice is a function, so any machine tests any machine's."""

import platform

import pytest
import torch

from lowbit_compiler.runtime import kernels, library

pytestmark = pytest.mark.skipif(library.handle() is None, reason="no native library")
SCALAR, AVX2, VNNI, PAIRS, AMX = 1, 3, 7, 15, 31
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
TABLE = [
    ("qgemm", SCALAR, 512, BF16, "qgemm_s8s8s32_1x16x4_scalar"),
    ("qgemm", AVX2, 512, BF16, "qgemm_s8s8s32_4x16x4_avx2"),
    ("qgemm", VNNI, 512, BF16, "qgemm_u8s8s32_6x64x4_vnni"),
    ("qgemm", AMX, 1, F32, "qgemm_u8s8s32_6x64x4_vnni"),
    ("qgemm", AMX, 4, BF16, "qgemm_u8s8s32_6x64x4_vnni"),
    ("qgemm", AMX, 5, F16, "qgemm_s8s8s32_32x32x64_amx"),
    ("qgemm", AMX, 512, BF16, "qgemm_s8s8s32_32x32x64_amx"),
    ("fgemm_s8", SCALAR, 1, BF16, "fgemm_f32s8_4x16_scalar"),
    ("fgemm_s8", AVX2, 1, BF16, "fgemm_f32s8_6x16_avx2"),
    ("fgemm_s8", VNNI, 8, BF16, "fgemv_f32s8_4x16_vnni"),
    ("fgemm_s8", VNNI, 9, BF16, "fgemm_f32s8_12x16_vnni"),
    ("fgemm_s8", AMX, 1, BF16, "fgemv_f32s8_4x16_vnni"),
    ("fgemm_s8", AMX, 512, BF16, "fgemm_bf16s8_32x32x32_amx"),
    ("fgemm_s8", AMX, 512, F32, "fgemm_f32s8_12x16_vnni"),
    ("fgemm_s8", AMX, 512, F16, "fgemm_f32s8_12x16_vnni"),
    ("fgemm_s4", AMX, 3, BF16, "fgemv_f32s4_4x16_vnni"),
    ("fgemm_s4", AMX, 4, BF16, "fgemm_bf16s4_32x32x32_amx"),
    ("fgemm_s4", AMX, 1, F32, "fgemv_f32s4_4x16_vnni"),
    ("fgemm_s4", AMX, 512, BF16, "fgemm_bf16s4_32x32x32_amx"),
    ("fgemm_s4", VNNI, 512, BF16, "fgemm_f32s4_12x16_vnni"),
    ("fgemm_u4", SCALAR, 1, BF16, "fgemm_f32u4_4x16_scalar"),
    ("fgemm_u4", AVX2, 1, BF16, "fgemm_s16u4_4x16_avx2"),
    ("fgemm_u4", AVX2, 512, BF16, "fgemm_f32u4_6x16_avx2"),
    ("fgemm_u4", VNNI, 1, F16, "fgemm_s16u4_4x16_vnni"),
    ("fgemm_u3", VNNI, 512, BF16, "fgemm_f32u3_12x16_vnni"),
    ("fgemm_u4", AMX, 1, BF16, "fgemm_s16u4_4x16_vnni"),
    ("fgemm_u4_nested", AMX, 512, BF16, "fgemm_bf16u4_nested_32x32x32_amx"),
    ("fgemm_u8", AMX, 512, F32, "fgemm_f32u8_12x16_vnni"),
    ("qgemm_u4", AMX, 512, BF16, "qgemm_u4_vnni"),
    ("rows", AMX, 1, BF16, "rows_vnni"),
    ("exact", AMX, 1, BF16, "exact_s8_1x16_vnni"),
    ("softmax", SCALAR, 512, F32, "softmax_scalar"),
    ("softmax", AVX2, 1, BF16, "softmax_avx2"),
    ("softmax", VNNI, 512, F16, "softmax_vnni"),
    ("softmax", AMX, 512, BF16, "softmax_vnni"),
    ("attention", SCALAR, 512, BF16, "attention_panels_scalar"),
    ("attention", AVX2, 12, F16, "attention_direct_avx2"),
    ("qgemm", PAIRS, 512, BF16, "qgemm_u8s8s32_6x64x4_vnni"),
    ("attention", PAIRS, 12, BF16, "attention_direct_vnni"),
    ("attention", PAIRS, 13, BF16, "attention_panels_bf16"),
    ("attention", PAIRS, 512, F16, "attention_panels_vnni"),
    ("attention", VNNI, 48, BF16, "attention_direct_vnni"),
    ("attention", VNNI, 49, BF16, "attention_panels_vnni"),
    ("attention_codes", AMX, 512, BF16, "attention_codes_direct_vnni"),
    ("attention", AMX, 512, F32, "attention_panels_vnni"),
    ("attention", AMX, 32, BF16, "attention_stream_bf16_amx"),
    ("attention", AMX, 33, BF16, "attention_tiles_bf16_amx"),
]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the table is of x86-64")
@pytest.mark.parametrize(("family", "mask", "m", "dtype", "name"), TABLE)
def test_choice(family, mask, m, dtype, name):
    assert kernels.select(family, mask, m, dtype) == name


def test_list():
    listed = kernels.kernels()
    assert len({k.name for k in listed}) == len(listed)
    families = kernels.families()
    assert set(kernels.FAMILIES.values()) < set(families)
    assert {k.family for k in listed} == set(families)
    for family in families:
        assert any(k.family == family and k.isa == "scalar" and k.min_m == 0 and not k.bf16_only for k in listed), family
    for kernel in listed:
        assert kernel.name.startswith(kernel.family.partition("_")[0].replace("fgemm", "fgem"))
        assert kernel.name.endswith(kernel.isa)


def test_unknown_names():
    with pytest.raises(ValueError, match="expected a family in"):
        kernels.select("gemm", 1, 1, F32)
    with pytest.raises(ValueError, match="no kernel"), kernels.using(kernel="qgemm_quantum"):
        pass
    with pytest.raises(ValueError, match="expected one of scalar, avx2, vnni, bf16, amx, neon, got 'sse'"), kernels.using(isa="sse"):
        pass


def test_kernel_for():
    assert kernels.kernel_for("linear_s8s8", "scalar") == "qgemm_s8s8s32_1x16x4_scalar"
    assert kernels.kernel_for("split_rows") == "reference"
    assert kernels.kernel_for("linear_fs8") in {k.name for k in kernels.kernels()}
