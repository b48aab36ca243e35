// Products of float rows with packed weights: what the kernels for few and for many rows share.
#pragma once
#include "cuda/floats.h"
#include "cuda/kernels.h"
#include "cuda/spans.h"

namespace lowbit::cuda {

struct Floats {
  Matrix x;
  Panels w;
  int64_t kp, n;
  const void* bias;
  Dtype bias_dtype;
  void* out;
  Dtype out_dtype;
  int group_bits;  // log2(group), of a format that has groups
};

constexpr int64_t kFewFloatRows = 8;    // up to these, one product of tensor cores has all rows beside 16 outputs
constexpr int64_t kSomeFloatRows = 64;  // up to these, narrow tiles

LOWBIT_DEVICE const int8_t* panel_at(const Floats& job, int64_t panel) { return job.w.first + panel * job.w.stride; }

// What sums of a format lack in the end: the scale of each of 4 adjacent outputs, where a row has one; and the numbers of a sum that is not finite.
template <class F>
struct Last {
  Four<float> scale;
  LOWBIT_DEVICE explicit Last(const Floats& job, int64_t n) {
    if (F::kGrouped) scale = {{1, 1, 1, 1}};
    else scale = load_wide<Four<float>>(F::scales(panel_at(job, n / kPanel), job.kp) + n % kPanel);
  }
  LOWBIT_DEVICE static float checked(const Floats&, int64_t, int64_t, float sum) { return sum; }
};
template <int kBits, class Lines>
struct Last<Affine<kBits, Lines>> {
  typedef Affine<kBits, Lines> A;
  Four<float> scale;
  LOWBIT_DEVICE explicit Last(const Floats& job, int64_t n)
      : scale(load_wide<Four<float>>(A::outer(panel_at(job, n / kPanel), job.kp, (int64_t)1 << job.group_bits) + n % kPanel)) {}

  // A row with infinity, or near it, meets the numbers themselves: scale q and minimum apart are infinite where their sum is not. Slow, and right.
  LOWBIT_DEVICE static float checked(const Floats& job, int64_t r, int64_t n, float sum) {
    if (Lines::kNested || (float_bits(sum) & 0x7fffffffu) < kInfBits || n >= job.n) return sum;
    const int8_t* panel = panel_at(job, n / kPanel);
    const char* row = row_at(job.x, r);
    sum = 0;
    for (int64_t k = 0; k < job.x.columns; ++k) {
      const int64_t group = k >> job.group_bits, at = group * kPanel + n % kPanel;
      const float scale = f16_to_float((uint16_t)A::scales(panel, job.kp)[at]);
      const float minimum = f16_to_float((uint16_t)A::minima(panel, job.kp, (int64_t)1 << job.group_bits)[at]);
      sum = fmaf(load_number(row, job.x.dtype, k), scale * (float)A::code(panel, k, n % kPanel) + minimum, sum);
    }
    return sum;
  }
};

// Four adjacent results of a row.
template <class F>
LOWBIT_DEVICE void finish_four(const Floats& job, int64_t r, int64_t n, const float sum[4]) {
  const int64_t size = job.out_dtype == kF32 ? 4 : 2;
  const Last<F> last(job, n);
  float y[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    y[j] = last.checked(job, r, n + j, sum[j]) * last.scale.of[j];
    if (job.bias && n + j < job.n) y[j] += load_number(job.bias, job.bias_dtype, n + j);
  }
  const bool aligned = job.n % 4 == 0 && (uintptr_t)job.out % 16 == 0;
  store_four((char*)job.out + r * job.n * size, job.out_dtype, n, job.n, aligned, y);
}

// F is the format of w.
template <class F>
void few_rows(const Floats& job, Stream stream);
template <class F>
void many_rows(const Floats& job, Stream stream);  // of x that is_regular()

}  // namespace lowbit::cuda
