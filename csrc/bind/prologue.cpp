#include "bind/prologue.h"

#include <string.h>

namespace lowbit {
namespace {

constexpr const char* kNames[] = {"", "silu", "gelu", "gelu_tanh", "relu", "rms_norm", "layer_norm"};  // in the order of Function

Function function_of(const char* op, const std::string& text) {
  for (size_t i = 0; i < sizeof(kNames) / sizeof(kNames[0]); ++i) {
    if (text == kNames[i]) return (Function)i;
  }
  EXPECT(op, false, "prologue one of silu, gelu, gelu_tanh, relu, rms_norm, layer_norm or empty, got '", text, "'");
}

bool same_sizes(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
  }
  return true;
}

}  // namespace

PrologueOwner set_prologue(const char* op, const Tensor& x, const PrologueArguments& arguments, Matrix& matrix) {
  PrologueOwner owner;
  Prologue& prologue = matrix.prologue;
  prologue.function = function_of(op, arguments.function);
  EXPECT(op, arguments.eps >= 0, "eps of at least 0, got ", arguments.eps);
  prologue.eps = (float)arguments.eps;
  const int64_t k = matrix.columns;
  if (const auto& times = arguments.times) {
    const bool row = times->dim() == 1 && times->size(0) == k;
    EXPECT(op, is_float(times->scalar_type()), "times in float32, bfloat16 or float16, got ", name(times->scalar_type()));
    EXPECT(op, row || same_sizes(x, *times), "times of shape (", k, ",) or that of x, ", shape(x), ", got ", shape(*times));
    const Rows rows = rows_of(*times);
    owner.times = rows.owner;
    prologue.times = {rows.matrix.data, rows.matrix.dtype};
    matrix.times_stride = row ? 0 : rows.matrix.stride;
  }
  if (const auto& plus = arguments.plus) {
    EXPECT(op, is_float(plus->scalar_type()), "plus in float32, bfloat16 or float16, got ", name(plus->scalar_type()));
    EXPECT(op, plus->dim() == 1 && plus->size(0) == k, "plus of shape (", k, ",), got ", shape(*plus));
    owner.plus = rows_of(*plus).owner;
    prologue.plus = {owner.plus->const_data_ptr(), dtype_of(plus->scalar_type())};
  }
  return owner;
}

}  // namespace lowbit
