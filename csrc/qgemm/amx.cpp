// 2x2 tiles of 16x16 sums, 64 codes of K a step. A comes in tiles (linear/prepare.h), B straight from the packed panels.
//
// The epilogue of a block takes a third of the time of its products at K = 576 and fills the reorder buffer, so the tile unit
// would wait for it; instead a few of its rows follow each step of the next block's products.
#include "common/amx.h"
#include "common/avx512.h"

namespace lowbit {
namespace {

constexpr int64_t kRows = 32;             // of a block
constexpr int64_t kSums = kRows * 32;     // int32 of a block: rows of two halves of 16
constexpr int64_t kMostDepth = 896;       // K of two panels that stay in L1 while rows pass by
constexpr int64_t kChunk = 4;             // blocks of rows whose sums wait in memory when K is deeper than that

// A block whose sums are complete, and how many of its rows have been written out.
struct Pending {
  const int32_t* sums;
  int64_t row, m, panel, panels, done;
};

inline __m512 scaled(const QgemmArgs* args, const int32_t* sums, __m512 sx, int64_t row, int64_t p) {
  const int64_t kp = args->kp;
  __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), sx);
  if (args->exact) y = _mm512_add_ps(y, _mm512_loadu_ps(args->exact + (p * args->m + row) * 16));
  y = _mm512_mul_ps(y, _mm512_loadu_ps(panel_scales(args->w + p * panel_bytes_s8(kp), kp)));
  return args->out.bias ? _mm512_add_ps(y, _mm512_loadu_ps(args->out.bias + p * 16)) : y;
}

inline void store(const QgemmArgs* args, int64_t row, int64_t p, __m512 y) {
  const Dtype dtype = args->out.dtype;
  const __mmask16 mask = first(args->out.n - p * 16);
  char* out = (char*)args->out.data + (row * args->out.stride + p * 16) * element_size(dtype);
  if (dtype == kBF16) _mm256_mask_storeu_epi16(out, mask, (__m256i)_mm512_cvtneps_pbh(y));
  else store16(out, dtype, 0, mask, y);
}

inline void finish(const QgemmArgs* args, Pending& pending, int64_t rows) {
  const int64_t stop = pending.done + rows < pending.m ? pending.done + rows : pending.m;
  for (; pending.done < stop; ++pending.done) {
    const int64_t row = pending.row + pending.done;
    const int32_t* sums = pending.sums + pending.done * 32;
    const __m512 sx = _mm512_set1_ps(args->scale[row]);
    store(args, row, pending.panel, scaled(args, sums, sx, row, pending.panel));
    if (pending.panels == 2) store(args, row, pending.panel + 1, scaled(args, sums + 16, sx, row, pending.panel + 1));
  }
}

// M x N tiles over `depth` of K from `start`, added to what `sums` holds unless start is 0.
template <int M, int N>
inline void block(const QgemmArgs* args, int64_t row, int64_t p, int64_t start, int64_t depth, int32_t* sums, Pending& pending) {
  const int64_t kp = args->kp, bytes = panel_bytes_s8(kp);
  const int8_t* a = args->q + row * kp + start * 16;
  const int8_t* b = args->w + p * bytes + start * 16;
  const int64_t share = (pending.m - pending.done + depth / 64 - 1) / (depth / 64);
  if (start == 0) {
    _tile_zero(0);
    if (N == 2) _tile_zero(1);
    if (M == 2) _tile_zero(2);
    if (M == 2 && N == 2) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, 128);
    if (N == 2) _tile_loadd(1, sums + 16, 128);
    if (M == 2) _tile_loadd(2, sums + 16 * 32, 128);
    if (M == 2 && N == 2) _tile_loadd(3, sums + 16 * 32 + 16, 128);
  }
  for (int64_t k = 0; k < depth; k += 64) {
    _tile_loadd(4, a + k * 16, 64);
    _tile_loadd(6, b + k * 16, 64);
    _tile_dpbssd(0, 4, 6);
    if (N == 2) {
      _tile_loadd(7, b + bytes + k * 16, 64);
      _tile_dpbssd(1, 4, 7);
    }
    if (M == 2) {
      _tile_loadd(5, a + 16 * kp + k * 16, 64);
      _tile_dpbssd(2, 5, 6);
      if (N == 2) _tile_dpbssd(3, 5, 7);
    }
    finish(args, pending, share);
  }
  _tile_stored(0, sums, 128);
  if (N == 2) _tile_stored(1, sums + 16, 128);
  if (M == 2) _tile_stored(2, sums + 16 * 32, 128);
  if (M == 2 && N == 2) _tile_stored(3, sums + 16 * 32 + 16, 128);
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// All rows against N panels, while lines of the panels that come next are fetched into L2.
template <int N>
void panels_of(const QgemmArgs* args, int64_t p, int32_t (*sums)[kSums], int& slot, Pending& pending) {
  const int64_t kp = args->kp, bytes = panel_bytes_s8(kp);
  const int64_t parts = (kp + kMostDepth - 1) / kMostDepth, depth = round_up((kp + parts - 1) / parts, 64);
  const int64_t chunk = parts == 1 ? kRows : kRows * kChunk;
  const int8_t* next = args->w + (p + N) * bytes;
  const int64_t ahead = least(args->panels - p - N, 2) * bytes;
  const int64_t blocks = (args->m + kRows - 1) / kRows, share = round_up((ahead + blocks - 1) / blocks, 64);
  for (int64_t first_row = 0; first_row < args->m; first_row += chunk) {
    const int64_t rows = least(args->m - first_row, chunk);
    for (int64_t start = 0; start < kp; start += depth) {
      const int64_t size = least(kp - start, depth);
      for (int64_t r = 0; r < rows; r += kRows) {
        const int64_t row = first_row + r, m = least(rows - r, kRows);
        int32_t* into = sums[(slot + r / kRows) % (2 * kChunk)];
        if (start == 0) {
          const int64_t from = row / kRows * share, to = least(from + share, ahead);
          for (int64_t b = from; b < to; b += 64) _mm_prefetch((const char*)next + b, _MM_HINT_T1);
        }
        if (m > 16) block<2, N>(args, row, p, start, size, into, pending);
        else block<1, N>(args, row, p, start, size, into, pending);
        if (start + size == kp) {
          finish(args, pending, kRows);
          pending = {into, row, m, p, N, 0};
        }
      }
    }
    slot = (slot + (int)(chunk / kRows)) % (2 * kChunk);
  }
}

}  // namespace

void qgemm_s8s8s32_32x32x64_amx(const QgemmArgs* args) {
  alignas(64) int32_t sums[2 * kChunk][kSums];
  int slot = 0;
  Pending pending = {sums[0], 0, 0, 0, 0, 0};
  configure_tiles(least(args->m, 16));
  int64_t p = 0;
  for (; p + 2 <= args->panels; p += 2) panels_of<2>(args, p, sums, slot, pending);
  if (p < args->panels) panels_of<1>(args, p, sums, slot, pending);
  finish(args, pending, kRows);
  _tile_release();
}

}  // namespace lowbit
