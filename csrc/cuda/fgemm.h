// Products of float rows with integer weights: what the kernels for few and for many rows share.
#pragma once
#include "cuda/floats.h"
#include "cuda/kernels.h"
#include "cuda/tile.h"

namespace lowbit::cuda {

struct Floats {
  Matrix x;
  Panels w;
  int64_t kp, n, group;  // group 0: int8 weights
  const void* bias;
  Dtype bias_dtype;
  void* out;
  Dtype out_dtype;
  int group_bits;  // log2(group)
};

constexpr int64_t kFewFloatRows = 4;    // up to these, multiplications outside tensor cores keep up with memory
constexpr int64_t kSomeFloatRows = 64;  // up to these, narrow tiles

LOWBIT_DEVICE const float* scales_of(const Floats& job, int64_t panel) {
  const int8_t* codes = job.w.first + panel * job.w.stride;
  return (const float*)(job.group ? codes + kPanel * job.kp / 2 : codes + kPanel * job.kp + 64);
}

// Four adjacent results of a row: sums of int8 weights still lack their scales.
LOWBIT_DEVICE void finish_four(const Floats& job, int64_t r, int64_t n, const float sum[4]) {
  const int64_t size = job.out_dtype == kF32 ? 4 : 2;
  const float* scales = scales_of(job, n / kPanel) + n % kPanel;
  float y[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    y[j] = job.group ? sum[j] : sum[j] * scales[j];
    if (job.bias && n + j < job.n) y[j] += load_number(job.bias, job.bias_dtype, n + j);
  }
  const bool aligned = job.n % 4 == 0 && (uintptr_t)job.out % 16 == 0;
  store_four((char*)job.out + r * job.n * size, job.out_dtype, n, job.n, aligned, y);
}

void few_rows(const Floats& job, Stream stream);
void many_rows(const Floats& job, Stream stream);  // of x that is_regular()

}  // namespace lowbit::cuda
