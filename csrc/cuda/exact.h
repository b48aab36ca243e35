// From integer sums to results: scales, bias, what the treatments keep exact, and rows that int8 cannot hold.
#pragma once
#include "cuda/prepare.h"
#include "cuda/rows.h"
#include "cuda/spans.h"

namespace lowbit::cuda {

struct Integers {
  Matrix x;
  Prepared prepared;
  Panels w;
  int64_t kp, n;
  Treatment treatment;
  const void* bias;
  Dtype bias_dtype;
  void* out;
  Dtype out_dtype;
  int group_bits;  // log2(group), of a format that has groups
};

LOWBIT_DEVICE const int8_t* panel_at(const Integers& job, int64_t panel) { return job.w.first + panel * job.w.stride; }

// Formats of int8 codes, or of what stands for them: the scale of an output, and its code k.
LOWBIT_DEVICE float output_scale(S8, const Integers& job, int64_t n) { return S8::scales(panel_at(job, n / kPanel), job.kp)[n % kPanel]; }
LOWBIT_DEVICE float output_scale(U4Nested, const Integers& job, int64_t n) {
  return U4Nested::outer(panel_at(job, n / kPanel), job.kp, (int64_t)1 << job.group_bits)[n % kPanel];
}
LOWBIT_DEVICE int32_t code_at(S8, const Integers&, const int8_t* panel, int64_t k, int64_t row) { return panel[(k / 4 * kPanel + row) * 4 + k % 4]; }
LOWBIT_DEVICE int32_t code_at(U4Nested, const Integers& job, const int8_t* panel, int64_t k, int64_t row) {
  const int64_t at = (k >> job.group_bits) * kPanel + row;
  const int32_t scale = U4Nested::scales(panel, job.kp)[at], minimum = U4Nested::minima(panel, job.kp, (int64_t)1 << job.group_bits)[at];
  return scale * U4Nested::code(panel, k, row) + minimum;
}

LOWBIT_DEVICE float bias_at(const Integers& job, int64_t n) { return job.bias ? load_number(job.bias, job.bias_dtype, n) : 0.0f; }

// Formats of which some codes may meet exact elements of x.
template <class F>
constexpr bool kSplits = false;
template <>
constexpr bool kSplits<S8> = true;

// Exact columns that a block has in shared memory at a time, as floats: [kListed][rows of x], [kListed][outputs of w].
// 8: with them the largest tile still fits twice into an A100's.
constexpr int kListed = 8;
template <class S>
struct ExactScratch {
  static constexpr int kBytes = kListed * (S::kRows + S::kColumns) * 4;
};

// The scales of a tile's rows to shared memory, NaN past the last; returns whether there is another NaN, a row that int8 cannot hold.
template <class S>
LOWBIT_DEVICE bool load_scales(const Integers& job, int64_t row, float* scales) {
  bool special = false;
  for (int i = thread_index(); i < S::kRows; i += S::kThreads) {
    const bool exists = row + i < job.x.rows;
    const float s_x = exists ? job.prepared.scale[row + i] : bits_float(0x7fc00000u);
    special = special || (exists && s_x != s_x);
    scales[i] = s_x;
  }
  return barrier_any(special);
}

// The threads of a tile each finish 4 adjacent outputs of `kOwn` rows at a time, which registers hold, and take `kTurns` turns.
template <class S>
struct Share {
  static constexpr int kAcross = S::kColumns / 4, kDown = S::kThreads / kAcross, kAll = (S::kRows + kDown - 1) / kDown;
  static constexpr int kOwn = kAll < 8 ? kAll : 8, kTurns = kAll / kOwn;
  LOWBIT_DEVICE static int quad() { return thread_index() % kAcross; }
  LOWBIT_DEVICE static int first_row(int turn) { return (turn * kDown + thread_index() / kAcross) * kOwn; }
};

// o[i][j] += sum over exact columns of x[row + first + i] * w[4 adjacent outputs]; all threads of the block take part.
template <class S>
LOWBIT_DEVICE void add_columns(const Integers& job, int64_t row, int64_t panel, int first, float* scratch, float (*o)[4]) {
  float *xs = scratch, *ws = scratch + kListed * S::kRows;
  const int64_t count = job.prepared.count[0];
  for (int64_t begin = 0; begin < count; begin += kListed) {
    barrier();
    for (int i = thread_index(); i < kListed * S::kRows; i += S::kThreads) {
      const int64_t e = begin + i / S::kRows, r = row + i % S::kRows;
      xs[i] = e < count && r < job.x.rows ? load_number(row_at(job.x, r), job.x.dtype, job.prepared.columns[e]) : 0.0f;
    }
    for (int i = thread_index(); i < kListed * S::kColumns; i += S::kThreads) {
      const int64_t e = begin + i / S::kColumns, p = panel + i % S::kColumns / kPanel;
      const int64_t k = e < count ? job.prepared.columns[e] : 0;
      ws[i] = e < count && p < job.w.count ? (float)code_at(S8{}, job, panel_at(job, p), k, i % kPanel) : 0.0f;
    }
    barrier();
    if (first >= S::kRows) continue;
    const int listed = count - begin < kListed ? (int)(count - begin) : kListed;
    for (int e = 0; e < listed; ++e) {
      const Four<float> w = load_wide<Four<float>>(ws + e * S::kColumns + 4 * Share<S>::quad());
#pragma unroll
      for (int i = 0; i < Share<S>::kOwn; ++i) {
        const float v = xs[e * S::kRows + first + i];
#pragma unroll
        for (int j = 0; j < 4; ++j) o[i][j] += v * w.of[j];
      }
    }
  }
}

// The same for one row whose exact elements are its own.
LOWBIT_DEVICE void add_elements(const Integers& job, int64_t r, int64_t n, float o[4]) {
  const int8_t* w = panel_at(job, n / kPanel) + n % kPanel * 4;
  for (int e = 0; e < job.prepared.count[r]; ++e) {
    const int32_t k = job.prepared.columns[r * kRowCapacity + e];
    const Words four = load_wide<Words>(w + (int64_t)(k / 4) * kPanel * 4);
    const float v = job.prepared.value[r * kRowCapacity + e];
#pragma unroll
    for (int j = 0; j < 4; ++j) o[j] += v * (float)(int8_t)(four.w[j] >> k % 4 * 8);
  }
}

// y = (float(acc) * s_x + o) * s_w + bias for kOwn rows from `first` on, where int8 holds them.
template <class S, class F>
LOWBIT_DEVICE void finish_some(const Integers& job, const int32_t* results, const float* scales, int64_t row, int64_t n, int first, float (*o)[4]) {
  const bool aligned = job.n % 4 == 0 && (uintptr_t)job.out % 16 == 0;
  const int64_t size = job.out_dtype == kF32 ? 4 : 2;
  float s_w[4], bias[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    s_w[j] = output_scale(F{}, job, n + j);  // a panel is whole
    bias[j] = n + j < job.n ? bias_at(job, n + j) : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < Share<S>::kOwn; ++i) {
    const int64_t r = row + first + i;
    const float s_x = scales[first + i];
    if (s_x != s_x) continue;
    if (kSplits<F> && job.treatment == kRows) add_elements(job, r, n, o[i]);
    const Four<int32_t> acc = load_wide<Four<int32_t>>(results + (first + i) * S::kStashStride + 4 * Share<S>::quad());
    float y[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) y[j] = ((float)acc.of[j] * s_x + o[i][j]) * s_w[j] + bias[j];
    store_four((char*)job.out + r * job.n * size, job.out_dtype, n, job.n, aligned, y);
  }
}

template <class S, class F>
LOWBIT_DEVICE void finish_rows(const Integers& job, const int32_t* results, const float* scales, int64_t row, int64_t panel, float* scratch) {
  const int64_t n = panel * kPanel + 4 * Share<S>::quad();
#pragma unroll 1
  for (int turn = 0; turn < Share<S>::kTurns; ++turn) {
    const int first = Share<S>::first_row(turn);
    float o[Share<S>::kOwn][4] = {};
    if (kSplits<F> && job.treatment == kColumns) add_columns<S>(job, row, panel, first, scratch, o);
    if (n < job.n && first < S::kRows) finish_some<S, F>(job, results, scales, row, n, first, o);
  }
}

// One row times 4 outputs with the dequantized weight, by a warp: 8 threads an output, which hold 64 elements of K together.
template <class F>
LOWBIT_DEVICE void special_outputs(const Integers& job, int64_t r, int64_t n) {
  const int lane = thread_index() % 32, member = lane % kRotationThreads;
  const int64_t own = n + lane / kRotationThreads;
  const bool exists = own < job.w.count * kPanel;
  const int8_t* panel = panel_at(job, exists ? own / kPanel : 0);
  const float s_w = exists ? output_scale(F{}, job, own) : 0.0f;
  const char* x = row_at(job.x, r);
  float sum = 0;
  for (int64_t begin = 0; begin < job.kp; begin += kBlock) {
    const int64_t k = begin + member * kChunk;
    float v[kChunk], weight[kChunk];
    load_chunk(x, job.x.dtype, k, job.x.columns, false, v);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) weight[i] = (float)code_at(F{}, job, panel, k + i, own % kPanel) * s_w;
    if (job.treatment == kRotation) rotate_chunk(weight);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (k + i < job.x.columns) sum += v[i] * weight[i];
    }
  }
  for (int mask = 1; mask < kRotationThreads; mask *= 2) sum += shuffle_xor(sum, mask);
  if (member == 0 && own < job.n) {
    const int64_t size = job.out_dtype == kF32 ? 4 : 2;
    store_number((char*)job.out + r * job.n * size, job.out_dtype, own, sum + bias_at(job, own));
  }
}

// Rows whose scale is NaN, as float rows: slow, and only where there are any.
template <class S, class F>
LOWBIT_DEVICE void special_rows(const Integers& job, int64_t row, int64_t panel) {
  const int64_t end = (panel + S::kPanels) * kPanel < job.n ? (panel + S::kPanels) * kPanel : job.n;
  for (int64_t r = row; r < row + S::kRows && r < job.x.rows; ++r) {
    const float s_x = job.prepared.scale[r];
    if (s_x == s_x) continue;
    for (int64_t n = panel * kPanel + thread_index() / 32 * 4; n < end; n += S::kWarps * 4) special_outputs<F>(job, r, n);
  }
}

}  // namespace lowbit::cuda
