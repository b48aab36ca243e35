// linear_s8s8 and its treatments: int8 products on tensor cores, scales, bias and the exact part in one kernel.
#include "cuda/exact.h"
#include "cuda/prepare.h"
#include "cuda/tile.h"

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

template <class S>
LOWBIT_DEVICE void multiply_slice(const char* codes, const char* panels, int32_t (*c)[4][4]) {
  const int lane = thread_index() % 32, g = lane / 4, t = lane % 4;
  const char* a_rows = codes + (S::warp_slice() * S::kRows + S::warp_row()) * kSlice;
  const char* b_panel = panels + (S::warp_slice() * S::kPanels + S::warp_column() / 16 + g / 4) * 1024;
#pragma unroll 1  // unrolled, the fragments of both halves would not fit in 128 registers
  for (int half = 0; half < 2; ++half) {  // 32 of the 64 k
    Words b[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) b[i] = load_wide<Words>(b_panel + swizzled((4 * (2 * half + i) + t) * 4 + g % 4) * 16);
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

template <class S>
struct Memory {
  static constexpr int kCodes = S::kWarpsK * S::kRows * kSlice, kStage = kCodes + S::kWarpsK * S::kPanels * 1024;
  static constexpr int kResults = S::kStashBytes + ExactScratch<S>::kBytes + S::kRows * 4;
  static constexpr int kBytes = S::kStages * kStage > kResults ? S::kStages * kStage : kResults;
};

typedef Shape<4, 2, 4, 1, 4> Large;
static_assert(2 * (Memory<Large>::kBytes + 1024) <= 164 << 10, "two blocks fit in the shared memory of an A100, which takes 1 KB of each");

template <class S, int kBlocks>
LOWBIT_KERNEL(S::kThreads, kBlocks) integer_product(Integers job) {
  char* memory = shared_memory();
  const int64_t row_tiles = (job.x.rows + S::kRows - 1) / S::kRows, column_tiles = (job.w.count + S::kPanels - 1) / S::kPanels;
  const TileIndex tile = tile_of(block_index(), row_tiles, column_tiles);
  const int64_t row = tile.row * S::kRows, panel = tile.column * S::kPanels;
  const int slices = (int)(job.kp / kSlice);
  const TileSource codes = tile_source(job.prepared.q, job.kp, row, job.x.rows, S::kRows, slices);
  const TileSource weights = tile_source(job.w.first, job.w.stride, panel, job.w.count, S::kPanels, slices);
  int32_t c[S::kTilesM][4][4] = {};
  stream_slices<S>(
      memory, Memory<S>::kStage, slices,
      [&](char* stage, int slice) {
        fetch_codes<S>(stage, codes, slice);
        fetch_panels<S, 1024>(stage + Memory<S>::kCodes, weights, slice);
      },
      [&](const char* stage) { multiply_slice<S>(stage, stage + Memory<S>::kCodes, c); });
  int32_t* results = (int32_t*)memory;
  stash<S>(results, c);
  float *scratch = (float*)(memory + S::kStashBytes), *scales = (float*)(memory + S::kStashBytes + ExactScratch<S>::kBytes);
  const bool special = load_scales<S>(job, row, scales);
  finish_rows<S>(job, results, scales, row, panel, scratch);
  if (special) special_rows<S>(job, row, panel);
}

template <class S, int kBlocks>
void start(const Integers& job, Stream stream) {
  const int64_t row_tiles = (job.x.rows + S::kRows - 1) / S::kRows, column_tiles = (job.w.count + S::kPanels - 1) / S::kPanels;
  launch(integer_product<S, kBlocks>, row_tiles * column_tiles, S::kThreads, Memory<S>::kBytes, stream, job);
}

// Few rows wait for the weights: many narrow tiles, whose warps share K. Large tiles only where enough of them keep a GPU busy.
struct Choice {
  const char* name;
  void (*start)(const Integers& job, Stream stream);
};
Choice choose_tiles(int64_t m, int64_t n) {
  constexpr int64_t kFewRows = 16, kSomeRows = 64, kManyTiles = 96;
  if (m <= kFewRows) return {"mma_s8_16x32_k8", start<Shape<1, 1, 1, 8, 3>, 2>};
  if (m <= kSomeRows) return {"mma_s8_32x32_k4", start<Shape<2, 1, 1, 4, 4>, 3>};
  if ((m + 127) / 128 * ((n + 127) / 128) < kManyTiles) return {"mma_s8_64x64", start<Shape<2, 2, 2, 1, 4>, 4>};
  return {"mma_s8_128x128", start<Large, 2>};
}

}  // namespace

int64_t s8s8_workspace(int64_t m, int64_t k, Treatment treatment) {
  Prepared unused;
  return lay_out(&unused, nullptr, m, round_up(k, kBlock), treatment);
}

void linear_s8s8(const Linear& op, Treatment treatment, float threshold, void* workspace, Stream stream) {
  const int64_t m = op.x.rows, kp = round_up(op.x.columns, kBlock), panels = round_up(op.n, kPanel) / kPanel;
  if (m == 0 || op.n == 0) return;
  Integers job = {op.x, {}, {op.w, S8::bytes(kp), panels}, kp, op.n, treatment, op.bias, op.bias_dtype, op.out, op.out_dtype};
  lay_out(&job.prepared, (char*)workspace, m, kp, treatment);
  prepare(job.prepared, op.x, kp, treatment, threshold, stream);
  choose_tiles(m, op.n).start(job, stream);
}

const char* s8s8_kernel(int64_t m, int64_t n) { return choose_tiles(m, n).name; }

}  // namespace lowbit::cuda
