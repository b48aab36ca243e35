// Float rows times packed weights on tensor cores: weights are widened on their way from shared memory, where they are exact in either
// 16-bit format; float32 activations are three bfloat16 numbers each. 32 elements of K are a step: thread t of four has the k-groups
// 8 i + 2 t and 8 i + 2 t + 1, which are a word of int4 codes and 16 adjacent bytes of 16-bit activations. Where weights have minima, the sums
// of x that these multiply are one more product, with ones.
#include <type_traits>

#include "cuda/fgemm.h"
#include "cuda/widen.h"

namespace lowbit::cuda {
namespace {

template <Dtype dtype>
struct Elements {  // of x
  static constexpr int kSize = dtype == kF32 ? 4 : 2, kRowBytes = kSlice * kSize, kChunks = kRowBytes / 16;
};

// Chunks of a row swap places so that the rows read together use all banks; float32 rows are read every other chunk.
template <Dtype dtype>
LOWBIT_DEVICE int placed(int row, int chunk) { return dtype == kF32 ? chunk ^ (row & 1) : chunk ^ (row & 1) * 4; }

template <class S, Dtype dtype>
LOWBIT_DEVICE void fetch_rows(char* stage, const TileSource& x, int64_t columns, int slice) {
  typedef Elements<dtype> E;
  constexpr int kTotal = S::kWarpsK * S::kRows * E::kChunks;
#pragma unroll 1
  for (int i = thread_index(); i < kTotal; i += S::kThreads) {
    const int chunk = i % E::kChunks, r = i / E::kChunks % S::kRows, s = i / E::kChunks / S::kRows;
    const int k = (slice + s) * kSlice + chunk * (16 / E::kSize);
    const bool valid = r < x.count && k < columns;
    copy_async(stage + (s * S::kRows + r) * E::kRowBytes + placed<dtype>(r, chunk) * 16, x.first + (valid ? r * (int64_t)x.stride + k * E::kSize : 0),
               valid);
  }
}

// What the thread has of a row's 32 k: the four k of one k-group for each half of them, as two words for each part of the numbers.
template <Dtype dtype>
LOWBIT_DEVICE void load_row(const char* rows, int row, int step, uint32_t (*a)[kParts<dtype>][2]) {
  const char* from = rows + row * Elements<dtype>::kRowBytes;
  const int t = thread_index() % 4;
  if (dtype == kF32) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Words x = load_wide<Words>(from + placed<dtype>(row, 8 * step + 2 * t + half) * 16);
      split_four<dtype>(x.w, a[half]);
    }
  } else {
    const Words x = load_wide<Words>(from + placed<dtype>(row, 4 * step + t) * 16);
#pragma unroll
    for (int half = 0; half < 2; ++half) split_four<dtype>(x.w + 2 * half, a[half]);
  }
}

// The weights of the thread: 4 adjacent outputs of the panel of its slice.
template <Dtype dtype, class F>
LOWBIT_DEVICE void load_weights(const char* slice, int step, uint32_t (*b)[4][2]) {
  typedef Quads<F> Q;
  const int chunk = thread_index() % 16 / 4, quad = 8 * step + 2 * (thread_index() % 4);
  Words lines[Q::kLines];
#pragma unroll
  for (int i = 0; i < Q::kLines; ++i) lines[i] = Staged<F>::chunk(slice, Q::line(i, quad), chunk);
  Span<F> span = {};
  if (!Span<F>::kOnSums) span = Staged<F>::span(slice, step, chunk);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int j = 0; j < 4; ++j) Numbers<dtype>::template pairs<Q>(span.bytes(Q::bytes(lines, quad, half, j), j), b[half][j]);
  }
}

template <class S, Dtype dtype, class F>
LOWBIT_DEVICE void multiply_step(const char* rows, const char* slice, int step, float (*c)[4][4], float (*sums)[4]) {
  typedef Numbers<dtype> N;
  const int g = thread_index() % 32 / 4;
  uint32_t b[2][4][2];
  load_weights<dtype, F>(slice, step, b);
#pragma unroll
  for (int m = 0; m < S::kTilesM; ++m) {
    uint32_t upper[2][kParts<dtype>][2], lower[2][kParts<dtype>][2];
    load_row<dtype>(rows, 16 * m + g, step, upper);
    load_row<dtype>(rows, 16 * m + g + 8, step, lower);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int part = 0; part < kParts<dtype>; ++part) {
        const uint32_t a[4] = {upper[half][part][0], lower[half][part][0], upper[half][part][1], lower[half][part][1]};
#pragma unroll
        for (int j = 0; j < 4; ++j) N::mma(c[m][j], a, b[half][j][0], b[half][j][1]);
        if (Span<F>::kOnSums && Span<F>::kMinima) N::mma(sums[m], a, N::kOnes, N::kOnes);
      }
    }
  }
}

// The sums of a step times what belongs to the 8 adjacent outputs that the thread has of them; `slices`: those of the warp's two panels.
template <class S, class F>
LOWBIT_DEVICE void add_step(const char* slices, int step, const float (*part)[4][4], const float (*sums)[4], float (*c)[4][4]) {
  const int t = thread_index() % 4;
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    const Span<F> span = Staged<F>::span(slices + t / 2 * Staged<F>::kBytes, step, t % 2 * 2 + column);
#pragma unroll
    for (int m = 0; m < S::kTilesM; ++m) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = column; i < 4; i += 2) c[m][j][i] = span.add(j, part[m][j][i], sums[m][i], c[m][j][i]);
      }
    }
  }
}

template <class S, Dtype dtype, class F>
struct Memory {
  static constexpr int kRows = S::kWarpsK * S::kRows * Elements<dtype>::kRowBytes;
  static constexpr int kStage = kRows + S::kWarpsK * S::kPanels * Staged<F>::kBytes;
  static constexpr int kBytes = S::kStages * kStage > S::kStashBytes ? S::kStages * kStage : S::kStashBytes;
};

// Blocks that a multiprocessor shall hold: one where sums of a group or parts of numbers take many registers.
template <Dtype dtype, class F>
constexpr int kResident = Span<F>::kOnSums || dtype == kF32 ? 1 : 2;

template <class S, Dtype dtype, class F>
LOWBIT_KERNEL(S::kThreads, (kResident<dtype, F>)) float_product(Floats job) {
  typedef Memory<S, dtype, F> M;
  char* memory = shared_memory();
  const int64_t row_tiles = (job.x.rows + S::kRows - 1) / S::kRows, column_tiles = (job.w.count + S::kPanels - 1) / S::kPanels;
  const TileIndex tile = tile_of(block_index(), row_tiles, column_tiles);
  const int64_t row = tile.row * S::kRows, panel = tile.column * S::kPanels;
  const int slices = (int)(job.kp / kSlice);
  const TileSource x = tile_source(job.x.data, job.x.stride * Elements<dtype>::kSize, row, job.x.rows, S::kRows, slices);
  const TileSource weights = tile_source(job.w.first, job.w.stride, panel, job.w.count, S::kPanels, slices);
  float c[S::kTilesM][4][4] = {};
  stream_slices<S>(
      memory, M::kStage, slices,
      [&](char* stage, int slice) {
        fetch_rows<S, dtype>(stage, x, job.x.columns, slice);
        fetch_panels<S, F>(stage + M::kRows, weights, job.group_bits, slice);
      },
      [&](const char* stage) {
        const char* rows = stage + (S::warp_slice() * S::kRows + S::warp_row()) * Elements<dtype>::kRowBytes;
        const char* panels = stage + M::kRows + (S::warp_slice() * S::kPanels + S::warp_column() / kPanel) * Staged<F>::kBytes;
        const char* own = panels + thread_index() % 32 / 16 * Staged<F>::kBytes;
#pragma unroll(dtype == kF32 && Span<F>::kOnSums ? 1 : 2)  // parts of numbers and sums of groups of both steps: too many registers
        for (int step = 0; step < 2; ++step) {
          float part[S::kTilesM][4][4] = {}, sums[S::kTilesM][4] = {};
          multiply_step<S, dtype, F>(rows, own, step, Span<F>::kOnSums ? part : c, sums);
          if (Span<F>::kOnSums) add_step<S, F>(panels, step, part, sums, c);
        }
      });
  float* results = (float*)memory;
  stash<S>(results, c);
  constexpr int kAcross = S::kColumns / 4;
  for (int i = thread_index(); i < S::kRows * kAcross; i += S::kThreads) {
    const int64_t r = row + i / kAcross, n = panel * kPanel + i % kAcross * 4;
    if (r >= job.x.rows || n >= job.n) continue;
    finish_four<F>(job, r, n, load_wide<Four<float>>(results + i / kAcross * S::kStashStride + i % kAcross * 4).of);
  }
}

template <class S, Dtype dtype, class F>
void start(const Floats& job, Stream stream) {
  const int64_t tiles = (job.x.rows + S::kRows - 1) / S::kRows * ((job.w.count + S::kPanels - 1) / S::kPanels);
  launch(float_product<S, dtype, F>, tiles, S::kThreads, Memory<S, dtype, F>::kBytes, stream, job);
}

template <Dtype dtype, class F>
void start(const Floats& job, Stream stream) {
  // float32 rows take twice the memory.
  typedef std::conditional_t<dtype == kF32, Shape<2, 1, 2, 2, 3>, Shape<2, 1, 1, 4, 3>> Narrow;
  if (job.x.rows <= kSomeFloatRows) return start<Narrow, dtype, F>(job, stream);
  start<Shape<2, 2, 4, 1, 3>, dtype, F>(job, stream);
}

}  // namespace

template <class F>
void many_rows(const Floats& job, Stream stream) {
  if (job.x.dtype == kF32) return start<kF32, F>(job, stream);
  if (job.x.dtype == kBF16) return start<kBF16, F>(job, stream);
  start<kF16, F>(job, stream);
}

#define INSTANCE(name, Format) template void many_rows<Format>(const Floats& job, Stream stream);
LOWBIT_FORMATS(INSTANCE)
LOWBIT_LINES(INSTANCE)

}  // namespace lowbit::cuda
