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
  const float* exact;
  int64_t row, m, panel, panels, done;
};

inline __m512 scaled(const QgemmArgs* args, const int32_t* sums, const float* exact, __m512 sx, int64_t row, int64_t p) {
  const int64_t kp = args->kp;
  __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), sx);
  if (args->tiles) y = _mm512_add_ps(y, _mm512_load_ps(exact));
  else if (args->exact) y = _mm512_add_ps(y, _mm512_loadu_ps(args->exact + (p * args->m + row) * 16));
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
    const float* exact = pending.exact + pending.done * 32;
    const __m512 sx = _mm512_set1_ps(args->scale[row]);
    store(args, row, pending.panel, scaled(args, sums, exact, sx, row, pending.panel));
    if (pending.panels == 2) store(args, row, pending.panel + 1, scaled(args, sums + 16, exact + 16, sx, row, pending.panel + 1));
  }
}

// The exact elements' columns of N panels as B tiles: [depth/2][16][2] bfloat16.
void widen(const QgemmArgs* args, int64_t p, int64_t panels) {
  const ExactTiles& tiles = *args->tiles;
  for (int64_t j = 0; j < panels; ++j) {
    const int8_t* panel = args->w + (p + j) * panel_bytes_s8(args->kp);
    for (int64_t c = 0; c < tiles.depth; c += 2) {
      __m512i half[2];
      for (int i = 0; i < 2; ++i) {
        const int64_t k = tiles.columns[c + i];
        const __m512i lanes = k < 0 ? _mm512_setzero_si512() : _mm512_loadu_si512(panel + k / 4 * 64);
        const __m512i code = _mm512_srai_epi32(_mm512_sll_epi32(lanes, _mm_cvtsi64_si128(24 - 8 * (k & 3))), 24);
        half[i] = _mm512_castps_si512(_mm512_cvtepi32_ps(code));  // a small integer's bfloat16 is the high half of its float
      }
      const __m512i pair = _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(half[0], 16), half[1]);
      _mm512_store_si512(tiles.weights + (j * tiles.depth + c) * 16, pair);
    }
  }
}

template <int M, int N>
inline void zero() {
  _tile_zero(0);
  if (N == 2) _tile_zero(1);
  if (M == 2) _tile_zero(2);
  if (M == 2 && N == 2) _tile_zero(3);
}

template <int M, int N>
inline void store_sums(void* sums) {
  _tile_stored(0, sums, 128);
  if (N == 2) _tile_stored(1, (char*)sums + 64, 128);
  if (M == 2) _tile_stored(2, (char*)sums + 16 * 128, 128);
  if (M == 2 && N == 2) _tile_stored(3, (char*)sums + 16 * 128 + 64, 128);
}

template <int M, int N>
inline void exact_block(const QgemmArgs* args, int64_t row, float* exact) {
  const int64_t depth = args->tiles->depth;
  const uint16_t* a = args->tiles->value + row * depth;
  const uint16_t* b = args->tiles->weights;
  zero<M, N>();
  for (int64_t c = 0; c < depth; c += 32) {
    _tile_loadd(4, a + c * 16, 64);
    _tile_loadd(6, b + c * 16, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (N == 2) {
      _tile_loadd(7, b + (depth + c) * 16, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (M == 2) {
      _tile_loadd(5, a + (depth + c) * 16, 64);
      _tile_dpbf16ps(2, 5, 6);
      if (N == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  store_sums<M, N>(exact);
}

// M x N tiles over `depth` of K from `start`, added to what `sums` holds unless start is 0.
template <int M, int N>
inline void block(const QgemmArgs* args, int64_t row, int64_t p, int64_t start, int64_t depth, int32_t* sums, Pending& pending) {
  const int64_t kp = args->kp, bytes = panel_bytes_s8(kp);
  const int8_t* a = args->q + row * kp + start * 16;
  const int8_t* b = args->w + p * bytes + start * 16;
  const int64_t share = (pending.m - pending.done + depth / 64 - 1) / (depth / 64);
  if (start == 0) {
    zero<M, N>();
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
  store_sums<M, N>(sums);
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// All rows against N panels, while lines of the panels that come next are fetched into L2.
template <int N>
void panels_of(const QgemmArgs* args, int64_t p, int32_t (*sums)[kSums], float (*exact)[kSums], int& slot,
               Pending& pending) {
  const int64_t kp = args->kp, bytes = panel_bytes_s8(kp);
  const int64_t parts = (kp + kMostDepth - 1) / kMostDepth, depth = round_up((kp + parts - 1) / parts, 64);
  const int64_t chunk = parts == 1 ? kRows : kRows * kChunk;
  const int8_t* next = args->w + (p + N) * bytes;
  const int64_t ahead = least(args->panels - p - N, 2) * bytes;
  const int64_t blocks = (args->m + kRows - 1) / kRows, share = round_up((ahead + blocks - 1) / blocks, 64);
  if (args->tiles) widen(args, p, N);
  for (int64_t first_row = 0; first_row < args->m; first_row += chunk) {
    const int64_t rows = least(args->m - first_row, chunk);
    for (int64_t start = 0; start < kp; start += depth) {
      const int64_t size = least(kp - start, depth);
      for (int64_t r = 0; r < rows; r += kRows) {
        const int64_t row = first_row + r, m = least(rows - r, kRows);
        const int64_t at = (slot + r / kRows) % (2 * kChunk);
        int32_t* into = sums[at];
        if (start == 0) {
          const int64_t from = row / kRows * share, to = least(from + share, ahead);
          for (int64_t b = from; b < to; b += 64) _mm_prefetch((const char*)next + b, _MM_HINT_T1);
          if (args->tiles && m > 16) exact_block<2, N>(args, row, exact[at]);
          else if (args->tiles) exact_block<1, N>(args, row, exact[at]);
        }
        if (m > 16) block<2, N>(args, row, p, start, size, into, pending);
        else block<1, N>(args, row, p, start, size, into, pending);
        if (start + size == kp) {
          finish(args, pending, kRows);
          pending = {into, exact[at], row, m, p, N, 0};
        }
      }
    }
    slot = (slot + (int)(chunk / kRows)) % (2 * kChunk);
  }
}

}  // namespace

void qgemm_s8s8s32_32x32x64_amx(const QgemmArgs* args) {
  alignas(64) int32_t sums[2 * kChunk][kSums];
  alignas(64) float exact[2 * kChunk][kSums];
  int slot = 0;
  Pending pending = {sums[0], exact[0], 0, 0, 0, 0, 0};
  configure_tiles(least(args->m, 16));
  int64_t p = 0;
  for (; p + 2 <= args->panels; p += 2) panels_of<2>(args, p, sums, exact, slot, pending);
  if (p < args->panels) panels_of<1>(args, p, sums, exact, slot, pending);
  finish(args, pending, kRows);
  _tile_release();
}

}  // namespace lowbit
