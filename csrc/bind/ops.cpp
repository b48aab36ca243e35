// The ops on the CPU.
#include "bind/ops.h"

namespace lowbit {
namespace {

struct Cpu {
  static constexpr bool kPrologue = true;
  explicit Cpu(const Tensor&) {}
  void require_same(const char*, const Tensor&) const {}
  Tensor aligned(const Tensor& weight) const { return weight; }
  Tensor allocate(const Tensor& x, int64_t last, ScalarType type) const { return lowbit::allocate(x, last, type); }
  void linear_s8s8(const Linear& op, Treatment treatment, float threshold) const { lowbit::linear_s8s8(op, treatment, threshold); }
  void linear_float(const Linear& op, int64_t group) const { lowbit::linear_float(op, group); }
  void quantize_s8(const Matrix& x, int8_t* q, float* scale) const { lowbit::quantize_s8(x, q, scale); }
  void quantize_s4(const Matrix& x, int64_t group, int8_t* q, float* scale) const { lowbit::quantize_s4(x, group, q, scale); }
  void rotate(const Matrix& x, float* out) const { lowbit::rotate(x, out); }
  void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out) const {
    lowbit::pack(q, scale, n, k, group, out);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) { LOWBIT_REGISTER_OPS(m, Cpu) }

}  // namespace lowbit
