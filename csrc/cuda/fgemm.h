// Products of float rows with packed weights: what the kernels for few and for many rows share.
#pragma once
#include "cuda/floats.h"
#include "cuda/kernels.h"
#include "cuda/tile.h"

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

constexpr int64_t kFewFloatRows = 4;    // up to these, multiplications outside tensor cores keep up with memory
constexpr int64_t kSomeFloatRows = 64;  // up to these, narrow tiles

template <class F>
LOWBIT_DEVICE const float* scales_of(const Floats& job, int64_t panel) { return F::scales(job.w.first + panel * job.w.stride, job.kp); }

// Four adjacent results of a row: without groups sums still lack their scales.
template <class F>
LOWBIT_DEVICE void finish_four(const Floats& job, int64_t r, int64_t n, const float sum[4]) {
  const int64_t size = job.out_dtype == kF32 ? 4 : 2;
  const float* scales = scales_of<F>(job, n / kPanel) + n % kPanel;
  float y[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    y[j] = F::kGrouped ? sum[j] : sum[j] * scales[j];
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
