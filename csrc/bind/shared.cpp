// The steps of a product by several processes (csrc/linear/shared.h), on the CPU. Checks and their words are those of runtime/shared_checks.py.
#include "linear/shared.h"

#include "bind/cpu.h"

namespace lowbit {
namespace {

// int32 [..., last] of the leading sizes of x.
void check_integers(const char* op, const char* name_of, const Tensor& t, const Tensor& x, int64_t last) {
  bool fits = t.scalar_type() == ScalarType::Int && t.dim() == x.dim() && t.size(t.dim() - 1) == last;
  for (int64_t d = 0; fits && d + 1 < x.dim(); ++d) fits = t.size(d) == x.size(d);
  EXPECT(op, fits, name_of, " in int32 of the leading sizes of ", shape(x), " and ", last, " columns, got ", name(t.scalar_type()), " of ", shape(t));
}

void check_weight(const char* op, const Tensor& w, int64_t n, int64_t k) {
  EXPECT(op, k >= 1 && k <= kMaxK, "K from 1 to ", kMaxK, ", got ", k);
  EXPECT(op, n >= 0, "n of at least 0, got ", n);
  const int64_t panels = n / kPanel + (n % kPanel != 0), bytes = S8::bytes(S8::padded(k));
  const bool fits = w.scalar_type() == ScalarType::Char && w.dim() == 2 && w.size(0) == panels && w.size(1) == bytes;
  const int64_t sizes[2] = {panels, bytes};
  EXPECT(op, fits, "w packed as int8 of shape ", shape(sizes, 2), " for n = ", n, ", K = ", k, ", got ", name(w.scalar_type()), " of ", shape(w));
}

// Rows of x with what they go through first.
struct PreparedRows {
  Rows rows;
  PrologueOwner owner;
};
PreparedRows rows_with(const char* op, const Tensor& x, const PrologueArguments& arguments) {
  check_tensors(op, Cpu::type(), {{"x", x}, {"times", arguments.times}, {"plus", arguments.plus}});
  PreparedRows made = {Ops<Cpu>::checked_rows(op, x), {}};
  check_memory(op, {{"times", arguments.times}, {"plus", arguments.plus}});
  made.owner = set_prologue(op, x, arguments, made.rows.matrix);
  return made;
}

Tensor op_reach(const Tensor& x, bool rotated, const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
  const PreparedRows made = rows_with("reach_s8", x, {prologue, times, plus, eps});
  Tensor reach = allocate(x, 1, ScalarType::Int);
  if (reach.numel()) reach_s8(made.rows.matrix, rotated, (int32_t*)reach.mutable_data_ptr());
  return reach;
}

Tensor op_sums(const Tensor& x, const Tensor& reach, const Tensor& w, int64_t n, bool rotated, const std::string& prologue,
               const OptionalTensor& times, const OptionalTensor& plus, double eps) {
  const char* op = "sums_s8s8";
  check_tensors(op, Cpu::type(), {{"x", x}, {"reach", reach}, {"w", w}});
  const PreparedRows made = rows_with(op, x, {prologue, times, plus, eps});
  const Rows& rows = made.rows;
  check_weight(op, w, n, rows.matrix.columns);
  check_integers(op, "reach", reach, x, 1);
  check_memory(op, {{"reach", reach}, {"w", w}});
  check_result(op, rows.matrix.rows, n);
  const Tensor reaches = dense(reach), weight = dense(w);
  Tensor out = allocate(x, n, ScalarType::Int);
  if (out.numel()) {
    sums_s8s8(rows.matrix, rotated, (const int32_t*)reaches.const_data_ptr(), (const int8_t*)weight.const_data_ptr(), n,
              (int32_t*)out.mutable_data_ptr());
  }
  return out;
}

Tensor op_scale(const Tensor& sums, const Tensor& reach, const Tensor& w, const OptionalTensor& bias, int64_t k, ScalarType dtype) {
  const char* op = "scale_sums";
  const Arguments arguments = {{"sums", sums}, {"reach", reach}, {"w", w}, {"bias", bias}};
  check_tensors(op, Cpu::type(), arguments);
  EXPECT(op, sums.dim() >= 1, "sums with at least one dimension, got 0 dimensions");
  const int64_t n = sums.size(sums.dim() - 1);
  check_integers(op, "sums", sums, sums, n);
  check_integers(op, "reach", reach, sums, 1);
  check_weight(op, w, n, k);
  if (bias) {
    EXPECT(op, bias->dim() == 1 && bias->size(0) == n, "bias of shape (", n, ",), got ", shape(*bias));
    EXPECT(op, is_float(bias->scalar_type()), "bias in float32, bfloat16 or float16, got ", name(bias->scalar_type()));
  }
  EXPECT(op, is_float(dtype), "dtype float32, bfloat16 or float16, got ", name(dtype));
  check_memory(op, arguments);
  const Tensor codes = dense(sums), reaches = dense(reach), weight = dense(w);
  std::optional<Tensor> added;
  if (bias) added = dense(*bias);
  Tensor out = allocate(sums, n, dtype);
  if (out.numel()) {
    scale_sums({(const int32_t*)codes.const_data_ptr(), (const int32_t*)reaches.const_data_ptr(), reaches.numel(), n, k,
                (const int8_t*)weight.const_data_ptr(), added ? added->const_data_ptr() : nullptr,
                added ? dtype_of(added->scalar_type()) : kF32, out.mutable_data_ptr(), dtype_of(dtype)});
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) {
  m.impl("reach_s8", TORCH_BOX(&op_reach));
  m.impl("sums_s8s8", TORCH_BOX(&op_sums));
  m.impl("scale_sums", TORCH_BOX(&op_scale));
}

}  // namespace lowbit
