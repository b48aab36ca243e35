// Up to 8 float rows times packed weights, at the speed of memory: a block for two panels, whose warps share K, 32 elements at a time. Weights
// are operand a of the tensor cores, so a product has 16 of the 32 outputs and all rows: thread t of four has the k-groups 2 t and 2 t + 1 of
// 4 adjacent outputs, straight from memory. What a warp reads next is asked for together, before any of it is used: a multiprocessor must have
// some 20 KB on the way. Where weights have minima, the sums of x that these multiply are one more product, with ones.
#include "cuda/fgemm.h"
#include "cuda/widen.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kOutputs = 2 * kPanel;

// Halves of a slice that a warp asks for together: fewer where rows take twice the registers.
template <Dtype dtype>
constexpr int kAtOnce = dtype == kF32 ? 2 : 4;

// What a thread needs for 32 of K: 8 of them, of 4 outputs and one row.
template <Dtype dtype, class F>
struct Taken {
  Words lines[Quads<F>::kLines];
  Span<F> span;
  uint32_t x[2 * kFourWords<dtype>];
};

// Elements k .. k + 7 of row r as they lie in memory; zeros where there are none.
template <Dtype dtype>
LOWBIT_DEVICE void load_eight(const Floats& job, int64_t r, int64_t k, bool regular, uint32_t* x) {
  constexpr int kWords = 2 * kFourWords<dtype>;
  const char* row = row_at(job.x, r < job.x.rows ? r : 0);
  const int64_t end = r < job.x.rows ? job.x.columns : 0;
#pragma unroll
  for (int i = 0; i < kWords; ++i) x[i] = 0;
  if (regular && k + 8 <= end) {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const Words words = load_wide<Words>(row + k * (kWords / 2) + i * 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[i + j] = words.w[j];
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (k + i >= end) continue;
    if (dtype == kF32) x[i % kWords] = ((const uint32_t*)row)[k + i];
    else x[i / 2] |= (uint32_t)((const uint16_t*)row)[k + i] << i % 2 * 16;
  }
}

// half: of the slices of 64, two each.
template <Dtype dtype, class F>
LOWBIT_DEVICE void take(const Floats& job, const char* panel, int64_t half, bool regular, Taken<dtype, F>* taken) {
  typedef Quads<F> Q;
  const int g = thread_index() % 32 / 4, t = thread_index() % 4, quad = (int)(half % 2) * 8 + 2 * t;
  const char* slice = panel + half / 2 * F::code_bytes(kSlice);
#pragma unroll
  for (int i = 0; i < Q::kLines; ++i) taken->lines[i] = load_wide<Words>(slice + Q::line(i, quad) * kLine + g % 4 * 16);
  const int64_t group = half * kHalf >> job.group_bits;
  const char* scales = panel + Span<F>::scales_at(job.kp) + group * Span<F>::kScales;
  taken->span.load(scales, panel + Span<F>::minima_at(job.kp, (int64_t)1 << job.group_bits) + group * Span<F>::kMinima, g % 4);
  load_eight<dtype>(job, g, half * kHalf + 8 * t, regular, taken->x);
}

// Adds them: c[i] has rows 2 t and 2 t + 1 of output 2 i, then those of output 2 i + 1.
template <Dtype dtype, class F>
LOWBIT_DEVICE void multiply(const Taken<dtype, F>& taken, float (*c)[4]) {
  typedef Quads<F> Q;
  typedef Numbers<dtype> N;
  const uint32_t ones[4] = {N::kOnes, N::kOnes, N::kOnes, N::kOnes};
  const int quad = 2 * (thread_index() % 4);
  float part[2][4] = {}, sums[4] = {};
  float(*to)[4] = Span<F>::kOnSums ? part : c;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t x[kParts<dtype>][2], w[4][2];
    split_four<dtype>(taken.x + half * kFourWords<dtype>, x);
#pragma unroll
    for (int j = 0; j < 4; ++j) N::template pairs<Q>(taken.span.bytes(Q::bytes(taken.lines, quad, half, j), j), w[j]);
#pragma unroll
    for (int part_of = 0; part_of < kParts<dtype>; ++part_of) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t a[4] = {w[2 * i][0], w[2 * i + 1][0], w[2 * i][1], w[2 * i + 1][1]};
        N::mma(to[i], a, x[part_of][0], x[part_of][1]);
      }
      if (Span<F>::kOnSums && Span<F>::kMinima) N::mma(sums, ones, x[part_of][0], x[part_of][1]);
    }
  }
  if (!Span<F>::kOnSums) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) c[i][e] = taken.span.add(2 * i + e / 2, part[i][e], sums[e % 2], c[i][e]);
  }
}

template <Dtype dtype, class F>
LOWBIT_KERNEL(kThreads, 2) few(Floats job, bool regular) {
  constexpr int kTaken = kAtOnce<dtype>;
  const int warp = thread_index() / 32, g = thread_index() % 32 / 4, t = thread_index() % 4;
  const int64_t first = block_index() * 2, own = first + g / 4 < job.w.count ? first + g / 4 : first, halves = job.kp / kHalf;
  const char* panel = (const char*)panel_at(job, own);
  float c[2][4] = {};
  for (int64_t begin = warp; begin < halves; begin += kTaken * kWarps) {
    Taken<dtype, F> taken[kTaken];
#pragma unroll
    for (int i = 0; i < kTaken; ++i) {
      if (begin + i * kWarps < halves) take(job, panel, begin + i * kWarps, regular, taken + i);
    }
#pragma unroll
    for (int i = 0; i < kTaken; ++i) {
      if (begin + i * kWarps < halves) multiply(taken[i], c);
    }
  }
  float(*shared)[kFewFloatRows][kOutputs] = (float(*)[kFewFloatRows][kOutputs])shared_memory();
#pragma unroll
  for (int e = 0; e < 8; ++e) shared[warp][2 * t + e % 2][4 * g + e / 2] = c[e / 4][e % 4];
  barrier();
  const int m = thread_index() / (kOutputs / 4), four = thread_index() % (kOutputs / 4) * 4;
  if (m >= job.x.rows || first * kPanel + four >= job.n) return;
  float total[4] = {};
  for (int w = 0; w < kWarps; ++w) {
    for (int j = 0; j < 4; ++j) total[j] += shared[w][m][four + j];
  }
  finish_four<F>(job, m, first * kPanel + four, total);
}

template <Dtype dtype, class F>
void start(const Floats& job, Stream stream) {
  launch(few<dtype, F>, (job.w.count + 1) / 2, kThreads, (int)(kWarps * kFewFloatRows * kOutputs * 4), stream, job, is_regular(job.x));
}

}  // namespace

template <class F>
void few_rows(const Floats& job, Stream stream) {
  if (job.x.dtype == kF32) return start<kF32, F>(job, stream);
  if (job.x.dtype == kBF16) return start<kBF16, F>(job, stream);
  start<kF16, F>(job, stream);
}

#define INSTANCE(name, Format) template void few_rows<Format>(const Floats& job, Stream stream);
LOWBIT_FORMATS(INSTANCE)
LOWBIT_LINES(INSTANCE)

}  // namespace lowbit::cuda
