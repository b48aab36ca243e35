// One product by several processes, each of which has a part of K (runtime/reference/shared.py): rows are quantized with what all parts of a row
// have as their largest magnitude, and sums of codes stay integers until all are added.
#pragma once
#include "linear/linear.h"

namespace lowbit {

constexpr int32_t kNanReach = 0x7fffffff;

// Bits of the largest magnitude of each row of x, rotated or as it is; kNanReach where x has a NaN.
void reach_s8(const Matrix& x, bool rotated, int32_t* reach);

// out int32 [rows, n]: sums of codes, quantized with `reach` [rows]; 0 in rows that are not finite.
void sums_s8s8(const Matrix& x, bool rotated, const int32_t* reach, const int8_t* w, int64_t n, int32_t* out);

// Sums [rows, n] to results, as the product of one process ends; NaN in rows that are not finite.
struct ScaledSums {
  const int32_t *sums, *reach;
  int64_t rows, n, k;
  const int8_t* w;
  const void* bias;  // [n] or null
  Dtype bias_dtype;
  void* out;         // [rows, n]
  Dtype out_dtype;
};
void scale_sums(const ScaledSums& op);

}  // namespace lowbit
