// The products of training in integers (csrc/linear/kept.h), on the CPU. Checks and their words are those of runtime/training_checks.py.
#include <string.h>

#include "bind/cpu.h"
#include "bind/parts.h"
#include "common/noise.h"
#include "linear/kept.h"

namespace lowbit {
namespace {

Tensor matrix(int64_t rows, int64_t columns, ScalarType type) {
  const int64_t sizes[2] = {rows, columns}, strides[2] = {columns, 1};
  return empty(sizes, strides, 2, shim_dtype(type));
}

void check_bits(const char* op, int64_t bits) { EXPECT(op, bits == 4 || bits == 8, "bits in (4, 8), got ", bits); }
ScalarType type_of(int64_t bits) { return bits == 4 ? ScalarType::Byte : ScalarType::Char; }
int64_t width_of(int64_t k, bool rotated) { return rotated ? round_up(k, kBlock) : k; }

// Codes [rows, k] and their scales.
void check_kept(const char* op, const char* part, const char* scale_part, const Tensor& q, const Tensor& scale, int64_t bits, int64_t k) {
  const int64_t sizes[2] = {q.dim() ? q.size(0) : 1, bits == 4 ? (k + 1) / 2 : k};
  const bool fits = q.scalar_type() == type_of(bits) && q.dim() == 2 && q.size(1) == sizes[1];
  EXPECT(op, fits, part, " in ", name(type_of(bits)).substr(sizeof("torch.") - 1), " of shape ", shape(sizes, 2), ", got ", name(q.scalar_type()), " of ",
         shape(q));
  check_part(op, scale_part, scale, ScalarType::Float, sizes[0], 1);
}

void check_sum(const char* op, int64_t count) { EXPECT(op, count <= kMaxK, "sums of at most ", kMaxK, " products, got ", count); }

Kept kept_of(const Tensor& q, const Tensor& scale, int64_t bits, int64_t k) {
  return {(uint8_t*)q.const_data_ptr(), (float*)scale.const_data_ptr(), q.size(0), k, (int)bits};
}

std::tuple<Tensor, Tensor> op_quantize(const Tensor& x, int64_t bits, bool rotated) {
  const char* op = "train_quantize";
  const Rows rows = Ops<Cpu>::checked_rows(op, x);
  check_bits(op, bits);
  const int64_t width = width_of(rows.matrix.columns, rotated);
  Tensor q = matrix(rows.matrix.rows, bits == 4 ? (width + 1) / 2 : width, type_of(bits)), scale = matrix(rows.matrix.rows, 1, ScalarType::Float);
  if (rows.matrix.rows) quantize_kept(rows.matrix, rotated, kept_of(q, scale, bits, width));
  return {q, scale};
}

Tensor op_multiply(const Tensor& x, const Tensor& x_scale, const Tensor& w, const Tensor& w_scale, const OptionalTensor& bias, int64_t bits, int64_t k,
                   ScalarType dtype) {
  const char* op = "train_multiply";
  const Arguments arguments = {{"x", x}, {"x_scale", x_scale}, {"w", w}, {"w_scale", w_scale}, {"bias", bias}};
  check_tensors(op, Cpu::type(), arguments);
  check_bits(op, bits);
  EXPECT(op, k >= 1, "k of at least 1, got ", k);
  check_kept(op, "x", "x_scale", x, x_scale, bits, k);
  check_kept(op, "w", "w_scale", w, w_scale, bits, k);
  check_sum(op, k);
  const int64_t n = w.size(0);
  if (bias) {
    EXPECT(op, bias->dim() == 1 && bias->size(0) == n, "bias of shape (", n, ",), got ", shape(*bias));
    EXPECT(op, is_float(bias->scalar_type()), "bias in float32, bfloat16 or float16, got ", name(bias->scalar_type()));
  }
  EXPECT(op, is_float(dtype), "dtype float32, bfloat16 or float16, got ", name(dtype));
  check_memory(op, arguments);
  check_result(op, x.size(0), n);
  const Tensor codes = dense(x), scales = dense(x_scale), weights = dense(w), weight_scales = dense(w_scale);
  std::optional<Tensor> added;
  if (bias) added = dense(*bias);
  Tensor out = matrix(x.size(0), n, dtype);
  if (out.numel()) {
    multiply_kept(kept_of(codes, scales, bits, k), kept_of(weights, weight_scales, bits, k), added ? added->const_data_ptr() : nullptr,
                  added ? dtype_of(added->scalar_type()) : kF32, out.mutable_data_ptr(), dtype_of(dtype));
  }
  return out;
}

Tensor op_fold(const Tensor& dy, const Tensor& q, const Tensor& scale, const Tensor& seed, int64_t site, bool columns, int64_t bits, bool rotated,
               int64_t k, ScalarType dtype) {
  const char* op = "train_fold";
  const Arguments arguments = {{"dy", dy}, {"q", q}, {"scale", scale}, {"seed", seed}};
  check_tensors(op, Cpu::type(), arguments);
  EXPECT(op, is_float(dy.scalar_type()), "dy in float32, bfloat16 or float16, got ", name(dy.scalar_type()));
  EXPECT(op, dy.dim() >= 1, "dy with at least one dimension, got ", dy.dim(), " dimensions");
  EXPECT(op, seed.scalar_type() == ScalarType::Long && seed.dim() == 1 && seed.size(0) == 1, "seed in int64 of shape (1,), got ",
         name(seed.scalar_type()), " of ", shape(seed));
  EXPECT(op, site >= 0 && site < (int64_t)1 << 31, "site from 0 to 2^31 - 1, got ", site);
  check_bits(op, bits);
  EXPECT(op, k >= 1, "k of at least 1, got ", k);
  check_kept(op, "q", "scale", q, scale, bits, width_of(k, rotated));
  EXPECT(op, is_float(dtype), "dtype float32, bfloat16 or float16, got ", name(dtype));
  check_memory(op, arguments);
  const Rows rows = rows_of(dy);
  const int64_t count = columns ? rows.matrix.rows : rows.matrix.columns, results = columns ? rows.matrix.columns : rows.matrix.rows;
  EXPECT(op, q.size(0) == count, "q of ", count, " rows, got ", q.size(0));
  check_sum(op, count);
  check_result(op, results, k);
  const Tensor codes = dense(q), scales = dense(scale);
  Tensor out = columns ? matrix(results, k, dtype) : allocate(dy, k, dtype);
  if (count == 0 && results) memset(out.mutable_data_ptr(), 0, (size_t)(results * k * element_size(dtype_of(dtype))));
  if (count == 0 || results == 0) return out;
  const uint32_t key = key_of(*(const int64_t*)dense(seed).const_data_ptr(), (uint32_t)site, columns ? 2 : 1, kGradient);
  multiply_folded({rows.matrix, columns, key, kept_of(codes, scales, bits, width_of(k, rotated)), rotated, out.mutable_data_ptr(), k, dtype_of(dtype)});
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) {
  m.impl("train_quantize", TORCH_BOX(&op_quantize));
  m.impl("train_multiply", TORCH_BOX(&op_multiply));
  m.impl("train_fold", TORCH_BOX(&op_fold));
}

}  // namespace lowbit
