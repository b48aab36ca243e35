// linear_s8s8 and its treatments, and linear_s8u4_nested: int8 products on tensor cores, scales, bias and the exact part in one kernel.
#include "cuda/exact.h"
#include "cuda/prepare.h"

namespace lowbit::cuda {
namespace {

// Rows of codes, 64 bytes a slice: chunk c of row r lies at c ^ (r / 2 % 4), so that 8 rows of ldmatrix are 8 x 16 different banks.
template <class S>
LOWBIT_DEVICE void fetch_codes(char* stage, const TileSource& x, int slice) {
  constexpr int kTotal = S::kWarpsK * S::kRows * 4;
#pragma unroll 1
  for (int i = thread_index(); i < kTotal; i += S::kThreads) {
    const int chunk = i % 4, r = i / 4 % S::kRows, s = i / 4 / S::kRows;
    const bool valid = r < x.count && slice + s < x.slices;
    const uint32_t offset = valid ? r * x.stride + (uint32_t)(slice + s) * kSlice + chunk * 16 : 0;
    copy_async(stage + (s * S::kRows + r) * kSlice + (chunk ^ (r >> 1 & 3)) * 16, x.first + offset, valid);
  }
}

// Quad `quad` of a slice as int8 codes: a word for each of the 4 outputs of a chunk.
LOWBIT_DEVICE Words codes_of(S8, const char* slice, int quad, int chunk) { return Staged<S8>::chunk(slice, quad, chunk); }
LOWBIT_DEVICE Words codes_of(U4Nested, const char* slice, int quad, int chunk) {
  const Words lines = Staged<U4Nested>::chunk(slice, quad / 2, chunk);
  const Span<U4Nested> span = Staged<U4Nested>::span(slice, quad / 8, chunk);
  Words made;
#pragma unroll
  for (int j = 0; j < 4; ++j) made.w[j] = span.bytes(lines.w[j] >> quad % 2 * 4 & 0x0f0f0f0fu, j) ^ 0x80808080u;
  return made;
}

template <class S, class F>
LOWBIT_DEVICE void multiply_slice(const char* codes, const char* panels, int32_t (*c)[4][4]) {
  const int lane = thread_index() % 32, g = lane / 4, t = lane % 4;
  const char* a_rows = codes + (S::warp_slice() * S::kRows + S::warp_row()) * kSlice;
  const char* b_panel = panels + (S::warp_slice() * S::kPanels + S::warp_column() / 16 + g / 4) * Staged<F>::kBytes;
#pragma unroll 1  // unrolled, the fragments of both halves would not fit in 128 registers
  for (int half = 0; half < 2; ++half) {  // 32 of the 64 k
    Words b[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) b[i] = codes_of(F{}, b_panel, 4 * (2 * half + i) + t, g % 4);
#pragma unroll
    for (int m = 0; m < S::kTilesM; ++m) {
      const int r = 16 * m + lane % 16, chunk = 2 * half + lane / 16;
      uint32_t a[4];
      load_matrices(a, a_rows + r * kSlice + (chunk ^ (r >> 1 & 3)) * 16);
#pragma unroll
      for (int j = 0; j < 4; ++j) mma_s8(c[m][j], a, b[0].w[j], b[1].w[j]);
    }
  }
}

template <class S, class F>
struct Memory {
  static constexpr int kCodes = S::kWarpsK * S::kRows * kSlice, kStage = kCodes + S::kWarpsK * S::kPanels * Staged<F>::kBytes;
  static constexpr int kResults = S::kStashBytes + ExactScratch<S>::kBytes + S::kRows * 4;
  static constexpr int kBytes = S::kStages * kStage > kResults ? S::kStages * kStage : kResults;
};

typedef Shape<4, 2, 4, 1, 4> Large;
static_assert(2 * (Memory<Large, S8>::kBytes + 1024) <= 164 << 10, "two blocks fit in the shared memory of an A100, which takes 1 KB of each");

template <class S, int kBlocks, class F>
LOWBIT_KERNEL(S::kThreads, kBlocks) integer_product(Integers job) {
  typedef Memory<S, F> M;
  char* memory = shared_memory();
  const int64_t row_tiles = (job.x.rows + S::kRows - 1) / S::kRows, column_tiles = (job.w.count + S::kPanels - 1) / S::kPanels;
  const TileIndex tile = tile_of(block_index(), row_tiles, column_tiles);
  const int64_t row = tile.row * S::kRows, panel = tile.column * S::kPanels;
  const int slices = (int)(job.kp / kSlice);
  const TileSource codes = tile_source(job.prepared.q, job.kp, row, job.x.rows, S::kRows, slices);
  const TileSource weights = tile_source(job.w.first, job.w.stride, panel, job.w.count, S::kPanels, slices);
  int32_t c[S::kTilesM][4][4] = {};
  stream_slices<S>(
      memory, M::kStage, slices,
      [&](char* stage, int slice) {
        fetch_codes<S>(stage, codes, slice);
        fetch_panels<S, F>(stage + M::kCodes, weights, job.group_bits, slice);
      },
      [&](const char* stage) { multiply_slice<S, F>(stage, stage + M::kCodes, c); });
  int32_t* results = (int32_t*)memory;
  stash<S>(results, c);
  float *scratch = (float*)(memory + S::kStashBytes), *scales = (float*)(memory + S::kStashBytes + ExactScratch<S>::kBytes);
  const bool special = load_scales<S>(job, row, scales);
  finish_rows<S, F>(job, results, scales, row, panel, scratch);
  if (special) special_rows<S, F>(job, row, panel);
}

template <class S, int kBlocks, class F>
void start(const Integers& job, Stream stream) {
  const int64_t row_tiles = (job.x.rows + S::kRows - 1) / S::kRows, column_tiles = (job.w.count + S::kPanels - 1) / S::kPanels;
  launch(integer_product<S, kBlocks, F>, row_tiles * column_tiles, S::kThreads, Memory<S, F>::kBytes, stream, job);
}

// Few rows wait for the weights: many narrow tiles, whose warps share K. Large tiles only where enough of them keep a GPU busy.
struct Choice {
  const char* name;
  void (*start)(const Integers& job, Stream stream);
};
template <class F>
Choice choose_tiles(int64_t m, int64_t n) {
  constexpr int64_t kFewRows = 16, kSomeRows = 64, kManyTiles = 96;
  if (m <= kFewRows) return {"mma_s8_16x32_k8", start<Shape<1, 1, 1, 8, 3>, 2, F>};
  if (m <= kSomeRows) return {"mma_s8_32x32_k4", start<Shape<2, 1, 1, 4, 4>, 3, F>};
  if ((m + 127) / 128 * ((n + 127) / 128) < kManyTiles) return {"mma_s8_64x64", start<Shape<2, 2, 2, 1, 4>, 4, F>};
  return {"mma_s8_128x128", start<Large, 2, F>};
}

template <class F>
void multiply(const Linear& op, int64_t kp, int64_t panel_bytes, int group_bits, Treatment treatment, float threshold, void* workspace,
              Stream stream) {
  const int64_t m = op.x.rows, panels = round_up(op.n, kPanel) / kPanel;
  if (m == 0 || op.n == 0) return;
  Integers job = {op.x, {}, {op.w, panel_bytes, panels}, kp, op.n, treatment, op.bias, op.bias_dtype, op.out, op.out_dtype, group_bits};
  lay_out(&job.prepared, (char*)workspace, m, kp, treatment);
  prepare(job.prepared, op.x, kp, treatment, threshold, stream);
  choose_tiles<F>(m, op.n).start(job, stream);
}

}  // namespace

int64_t s8s8_workspace(int64_t m, int64_t k, Treatment treatment) {
  Prepared unused;
  return lay_out(&unused, nullptr, m, round_up(k, kBlock), treatment);
}

void linear_s8s8(const Linear& op, Treatment treatment, float threshold, void* workspace, Stream stream) {
  const int64_t kp = round_up(op.x.columns, kBlock);
  multiply<S8>(op, kp, S8::bytes(kp), 0, treatment, threshold, workspace, stream);
}

int64_t nested_workspace(int64_t m, int64_t k, int64_t group, Treatment treatment) {
  Prepared unused;
  return lay_out(&unused, nullptr, m, U4Nested::padded(k, group), treatment);
}

void linear_s8u4_nested(const Linear& op, Treatment treatment, int64_t group, void* workspace, Stream stream) {
  const int64_t kp = U4Nested::padded(op.x.columns, group);
  multiply<U4Nested>(op, kp, U4Nested::bytes(kp, group), __builtin_ctzll((uint64_t)group), treatment, 0.0f, workspace, stream);
}

const char* s8s8_kernel(int64_t m, int64_t n) { return choose_tiles<S8>(m, n).name; }

}  // namespace lowbit::cuda
