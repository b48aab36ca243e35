// liblowbit_ops.so: defines the ops that have kernels, for programs without Python, and brings liblowbit_cpu.so along. In Python
// runtime/ops.py defines them; tests/runtime/test_library.py compares the two.
#include <torch/csrc/stable/library.h>

namespace {

#define OPERANDS "(Tensor x, Tensor w, Tensor? bias, int n, "
#define BEFORE "*, str prologue=\"\", Tensor? times=None, Tensor? plus=None, float eps=0.0) -> Tensor"
#define PROLOGUE "ScalarType? dtype, " BEFORE

#define GROUPED "int group, " PROLOGUE
#define QUANTIZE_LINES "(Tensor w, int group) -> (Tensor, Tensor, Tensor, Tensor)"
#define QUANTIZE_CODES "(Tensor w, int group) -> (Tensor, Tensor, Tensor)"
#define PACK_CODES "(Tensor q, Tensor scale, Tensor outer, int group) -> Tensor"
#define PACK_LINES "(Tensor q, Tensor scale, Tensor minimum, Tensor outer, int group) -> Tensor"

const char* const kSchemas[] = {
    "linear_s8s8" OPERANDS PROLOGUE,
    "linear_s8s8_rotated" OPERANDS PROLOGUE,
    "linear_s8s8_columns" OPERANDS "float threshold, " PROLOGUE,
    "linear_s8s8_rows" OPERANDS PROLOGUE,
    "linear_s8u4_nested" OPERANDS GROUPED,
    "linear_s8u4_nested_rotated" OPERANDS GROUPED,
    "linear_s8d8" OPERANDS PROLOGUE,
    "linear_s8d8_rotated" OPERANDS PROLOGUE,
    "linear_s8ternary" OPERANDS PROLOGUE,
    "linear_fs8" OPERANDS PROLOGUE,
    "linear_fs4" OPERANDS GROUPED,
    "linear_fu3" OPERANDS GROUPED,
    "linear_fu4" OPERANDS GROUPED,
    "linear_fu4_nested" OPERANDS GROUPED,
    "linear_fu5" OPERANDS GROUPED,
    "linear_fu6" OPERANDS GROUPED,
    "linear_fu8" OPERANDS GROUPED,
    "linear_fternary" OPERANDS PROLOGUE,
    "linear_fternary_grouped" OPERANDS GROUPED,
    "linear_fnf4" OPERANDS GROUPED,
    "linear_fiq4" OPERANDS GROUPED,
    "linear_fz4" OPERANDS GROUPED,
    "linear_fz6" OPERANDS GROUPED,
    "chain(Tensor[] rows, Tensor[] constants, int[] program, float[] eps) -> (Tensor, Tensor)",
    "quantize_s8(Tensor x) -> (Tensor, Tensor)",
    "quantize_s4(Tensor w, int group) -> (Tensor, Tensor)",
    "quantize_u3" QUANTIZE_LINES,
    "quantize_u4" QUANTIZE_LINES,
    "quantize_u4_nested" QUANTIZE_LINES,
    "quantize_u5" QUANTIZE_LINES,
    "quantize_u6" QUANTIZE_LINES,
    "quantize_u8" QUANTIZE_LINES,
    "quantize_ternary(Tensor w) -> (Tensor, Tensor)",
    "quantize_ternary_grouped(Tensor w, int group) -> (Tensor, Tensor)",
    "quantize_nf4" QUANTIZE_CODES,
    "quantize_iq4" QUANTIZE_CODES,
    "quantize_z4" QUANTIZE_LINES,
    "quantize_z6" QUANTIZE_LINES,
    "pack_s8(Tensor q, Tensor scale) -> Tensor",
    "pack_s4(Tensor q, Tensor scale, int group) -> Tensor",
    "pack_u3" PACK_LINES,
    "pack_u4" PACK_LINES,
    "pack_u4_nested" PACK_LINES,
    "pack_u5" PACK_LINES,
    "pack_u6" PACK_LINES,
    "pack_u8" PACK_LINES,
    "pack_ternary(Tensor q, Tensor scale) -> Tensor",
    "pack_ternary_grouped(Tensor q, Tensor scale, int group) -> Tensor",
    "pack_nf4" PACK_CODES,
    "pack_iq4" PACK_CODES,
    "pack_z4" PACK_LINES,
    "pack_z6" PACK_LINES,
    "train_quantize(Tensor x, int bits, bool rotated) -> (Tensor, Tensor)",
    "train_multiply(Tensor x, Tensor x_scale, Tensor w, Tensor w_scale, Tensor? bias, int bits, int k, ScalarType dtype) -> Tensor",
    "train_fold(Tensor dy, Tensor q, Tensor scale, Tensor seed, int site, bool columns, int bits, bool rotated, int k, ScalarType dtype) -> Tensor",
    "rotate(Tensor x) -> Tensor",
    "reach_s8(Tensor x, bool rotated, " BEFORE,
    "sums_s8s8(Tensor x, Tensor reach, Tensor w, int n, bool rotated, " BEFORE,
    "scale_sums(Tensor sums, Tensor reach, Tensor w, Tensor? bias, int k, ScalarType dtype) -> Tensor",
    "softmax(Tensor x, int dim, float scale=1.0, Tensor? mask=None, bool log=False, ScalarType? dtype=None) -> Tensor",
    "sdpa(Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, float scale) -> Tensor",
    "sdpa_codes(Tensor q, Tensor k, Tensor k_scale, Tensor v, Tensor v_scale, Tensor? mask, bool causal, float scale) -> Tensor",
};

// A namespace is defined once. Not STABLE_TORCH_LIBRARY: where Python came first, it goes on with a library that is not there.
[[maybe_unused]] const bool kDefined = [] {
  TorchLibraryHandle library = nullptr;  // as long as the process lives
  if (aoti_torch_library_init_def("lowbit", __FILE__, __LINE__, &library) != AOTI_TORCH_SUCCESS) return false;
  for (const char* schema : kSchemas) STD_TORCH_CHECK(aoti_torch_library_def(library, schema) == AOTI_TORCH_SUCCESS, schema);
  return true;
}();

}  // namespace
