// Softmax of rows on plain pointers. Sums of exponentials are pairs (m, n) of value m * 2^n, so no maximum is subtracted.
#pragma once
#include "common/types.h"

namespace lowbit {

constexpr int64_t kMostSoftmaxDims = 64;  // torch's own limit
constexpr int64_t kColumnBlock = 64, kMostBlocks = 64;

// What all rows of a call share.
struct SoftmaxSpec {
  Dtype dtype, out_dtype;
  double scale;
  MaskKind mask;
  Dtype mask_dtype;   // of a float mask
  bool mask_splat;    // one element of the mask serves the whole row
  bool log, two_pass;
};

// A row, or a part of one. `kept` holds n floats between the passes of the three-pass algorithm: `out` itself if that is float32.
struct SoftmaxRow {
  const void* x;
  const void* mask;
  void* out;
  float* kept;
  int64_t n;
};

// Rows at equal distances in bytes; `kept` serves one after the other.
struct SoftmaxRows {
  SoftmaxRow row;
  int64_t count, x_step, mask_step, out_step;
};

// The sum of e^s over a row; m is NaN where the row must be done with care: NaN, infinities, |maximum| > 2^17.
struct SoftmaxSum {
  double m, n;
};

// Rows side by side, up to kColumnBlock * kMostBlocks: element r of row c is x[r * x_step + c]. The mask has its rows side by side too.
struct SoftmaxColumns {
  const void* x;
  const void* mask;
  void* out;
  float* kept;                          // n * kColumnBlock floats, or null if that is too much to keep
  int64_t x_step, mask_step, out_step;  // elements
  int64_t n, columns;
};

struct SoftmaxKernels {
  void (*rows)(const SoftmaxSpec* spec, const SoftmaxRows* rows);
  // The two passes over a part of a row; between them the sums of all parts are merged.
  SoftmaxSum (*first)(const SoftmaxSpec* spec, const SoftmaxRow* part);
  void (*second)(const SoftmaxSpec* spec, const SoftmaxRow* part, SoftmaxSum own, SoftmaxSum total);
  // Bit c % 64 of care[c / 64] is set where row c must be done with care.
  void (*columns)(const SoftmaxSpec* spec, const SoftmaxColumns* columns, uint64_t* care);
};

// Asked of whole rows only: a part may lie below -2^17 altogether and just not count. Static: no copy compiled for one ISA may serve others.
static inline bool needs_care(SoftmaxSum sum) { return !(sum.m < 0x1p200) || sum.n < -189098.0; }

// Dimensions around the one that is summed over; strides in bytes.
struct SoftmaxOuter {
  int64_t dims, count;
  int64_t size[kMostSoftmaxDims], x[kMostSoftmaxDims], mask[kMostSoftmaxDims], out[kMostSoftmaxDims];
};

struct Softmax {
  SoftmaxSpec spec;
  const void* x;
  const void* mask;
  void* out;
  int64_t n;
  SoftmaxOuter outer;
  // 1: rows, whose elements are adjacent. Otherwise this many adjacent rows lie side by side, and their elements these strides apart (elements).
  int64_t columns, x_step, mask_step, out_step;
};

void softmax_of(Softmax& op);  // sets spec.two_pass

int softmax_passes(int64_t n, Dtype dtype, Dtype out_dtype);  // 2 or 3

}  // namespace lowbit
