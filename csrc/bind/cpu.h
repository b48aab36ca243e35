// The operations of linear/linear.h on the CPU, as Ops asks for them.
#pragma once
#include "bind/ops.h"

namespace lowbit {
namespace {

struct Cpu {
  static constexpr bool kPrologue = true;
  static int32_t type() { return aoti_torch_device_type_cpu(); }
  explicit Cpu(const Tensor&) {}
  template <class F>
  void check_padding(const char* op, const int8_t* w, int64_t n, int64_t k, int64_t group, bool rotated) const {
    EXPECT(op, rows_end<F>(w, n, k, group), "w packed for n = ", n, ", got one of more rows");
    EXPECT(op, rotated || columns_end<F>(w, k, group), "w packed for K = ", k, ", got one of more columns");  // the rotation leaves no padding
  }
  void check_codes(const char* op, const int8_t* q, int64_t count, int from, int to) const {
    int least = 0, most = 0;
    for (int64_t i = 0; i < count; ++i) {
      least = q[i] < least ? q[i] : least;
      most = q[i] > most ? q[i] : most;
    }
    EXPECT(op, from <= least && most <= to, "codes from ", from, " to ", to, ", got ", least < from ? least : most);
  }
  Tensor aligned(const Tensor& weight) const {  // for the sums and scales in it
    return (uintptr_t)weight.const_data_ptr() % 4 ? torch::stable::clone(weight) : weight;
  }
  Tensor allocate(const Tensor& x, int64_t last, ScalarType type) const { return lowbit::allocate(x, last, type); }
  void linear_s8s8(const Linear& op, Treatment treatment, float threshold) const { lowbit::linear_s8s8(op, treatment, threshold); }
  void linear_s8u4_nested(const Linear& op, Treatment treatment, int64_t group) const { lowbit::linear_s8u4_nested(op, treatment, group); }
  template <class F>
  void linear_float(const Linear& op, int64_t group) const { lowbit::linear_float<F>(op, group); }
  void quantize_s8(const Matrix& x, int8_t* q, float* scale) const { lowbit::quantize_s8(x, q, scale); }
  void quantize_s4(const Matrix& x, int64_t group, int8_t* q, float* scale) const { lowbit::quantize_s4(x, group, q, scale); }
  void rotate(const Matrix& x, float* out) const { lowbit::rotate(x, out); }
  template <class F>
  void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out) const {
    lowbit::pack<F>(q, scale, n, k, group, out);
  }
};

}  // namespace
}  // namespace lowbit
