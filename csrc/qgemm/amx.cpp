// 2x2 tiles of 16x16 sums, 64 codes of K a step. A comes in tiles (linear/prepare.h), B straight from the packed panels.
//
// The epilogue of a block takes a third of the time of its products at K = 576 and fills the reorder buffer, so the tile unit
// would wait for it; instead a few of its rows follow each step of the next block's products.
#include "common/amx.h"
#include "common/avx512.h"

namespace lowbit {
namespace {


struct alignas(64) Slot {
  int32_t sums[kBlockRows * 32];  // rows of two halves of 16
  float exact[kBlockRows * 32];
};

// A block whose sums are complete, and how many of its rows have been written out.
struct Pending {
  const int32_t* sums;
  const float* exact;
  int64_t row, m, panel, panels, done;
};

// Rows of `pending`, with what every row needs in registers.
template <bool Exact, bool Bias>
inline void finish_as(const QgemmArgs* args, Pending& pending, int64_t stop) {
  const int64_t p = pending.panel, two = pending.panels == 2, bytes = S8::bytes(args->kp), size = element_size(args->out.dtype);
  const float* scales = S8::scales(args->w + p * bytes, args->kp);
  const __m512 w0 = _mm512_loadu_ps(scales), w1 = two ? _mm512_loadu_ps((const float*)((const char*)scales + bytes)) : w0;
  const __m512 b0 = Bias ? _mm512_loadu_ps(args->out.bias + p * 16) : w0, b1 = Bias && two ? _mm512_loadu_ps(args->out.bias + p * 16 + 16) : b0;
  const int64_t count = least(args->out.n - p * 16, pending.panels * 16), stride = args->out.stride * size;
  const float* sx = args->scale + pending.row;
  char* out = (char*)args->out.data + pending.row * stride + p * 16 * size;
  for (int64_t i = pending.done; i < stop; ++i) {
    const __m512 s = _mm512_set1_ps(sx[i]);
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(pending.sums + i * 32)), s);
    __m512 z = two ? _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(pending.sums + i * 32 + 16)), s) : _mm512_setzero_ps();
    if (Exact && args->tiles) {
      y = _mm512_add_ps(y, _mm512_load_ps(pending.exact + i * 32));
      if (two) z = _mm512_add_ps(z, _mm512_load_ps(pending.exact + i * 32 + 16));
    } else if (Exact) {
      const float* exact = args->exact + (p * args->m + pending.row + i) * 16;
      y = _mm512_add_ps(y, _mm512_loadu_ps(exact));
      if (two) z = _mm512_add_ps(z, _mm512_loadu_ps(exact + args->m * 16));
    }
    y = _mm512_mul_ps(y, w0);
    z = _mm512_mul_ps(z, w1);
    if (Bias) {
      y = _mm512_add_ps(y, b0);
      z = _mm512_add_ps(z, b1);
    }
    store_two(out + i * stride, args->out.dtype, count, y, z);
  }
  pending.done = stop;
}

// The same without scales: the sums themselves.
inline void finish_sums(const QgemmArgs* args, Pending& pending, int64_t stop) {
  const int64_t count = least(args->out.n - pending.panel * 16, pending.panels * 16);
  for (int64_t i = pending.done; i < stop; ++i) {
    int32_t* out = (int32_t*)args->out.data + (pending.row + i) * args->out.stride + pending.panel * 16;
    _mm512_mask_storeu_epi32(out, first(count), _mm512_load_si512(pending.sums + i * 32));
    _mm512_mask_storeu_epi32(out + 16, first(count - 16), _mm512_load_si512(pending.sums + i * 32 + 16));
  }
  pending.done = stop;
}

inline void finish(const QgemmArgs* args, Pending& pending, int64_t rows) {
  const int64_t stop = least(pending.done + rows, pending.m);
  if (pending.done == stop) return;
  const bool exact = args->tiles || args->exact;
  if (args->out.dtype == kS32) finish_sums(args, pending, stop);
  else if (args->out.bias) exact ? finish_as<true, true>(args, pending, stop) : finish_as<false, true>(args, pending, stop);
  else exact ? finish_as<true, false>(args, pending, stop) : finish_as<false, false>(args, pending, stop);
}

// The exact elements' columns of a panel as B tiles: [depth/2][16][2] bfloat16.
void widen(const QgemmArgs* args, int64_t p, uint16_t* weights) {
  const ExactTiles& tiles = *args->tiles;
  const int8_t* panel = args->w + p * S8::bytes(args->kp);
  for (int64_t c = 0; c < tiles.depth; c += 2) {
    __m512i half[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t k = tiles.columns[c + i];
      const __m512i lanes = k < 0 ? _mm512_setzero_si512() : _mm512_loadu_si512(panel + k / 4 * 64);
      const __m512i code = _mm512_srai_epi32(_mm512_sll_epi32(lanes, _mm_cvtsi64_si128(24 - 8 * (k & 3))), 24);
      half[i] = _mm512_castps_si512(_mm512_cvtepi32_ps(code));  // a small integer's bfloat16 is the high half of its float
    }
    const __m512i pair = _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(half[0], 16), half[1]);
    _mm512_store_si512(weights + c * kPanel, pair);
  }
}

// M x N tiles of exact elements times weights as bfloat16.
template <int M, int N>
inline void exact_block(const ExactTiles& tiles, int64_t row, const uint16_t* weights, float* exact) {
  const int64_t half = tiles.depth * kPanel * 2;
  zero_tiles<M, N>();
  multiply_tiles<Bfloats, M, N>(tiles.value + row * tiles.depth, half, weights, half, tiles.depth * 2, [](int64_t) {});
  store_tiles<M, N>(exact);
}

// M x N tiles of codes; meanwhile `pending` is written out, and the lines of `next` (0: none) come to L2.
template <int M, int N>
inline void block(const QgemmArgs* args, int64_t row, int64_t p, const char* next, int32_t* sums, Pending& pending) {
  const int64_t kp = args->kp, bytes = S8::bytes(kp), steps = kp / 64;
  const int64_t share = (pending.m - pending.done + steps - 1) / steps;
  zero_tiles<M, N>();
  multiply_tiles<Codes, M, N>(args->q + row * kp, 16 * kp, args->w + p * bytes, bytes, kp, [&](int64_t k) {
    for (int64_t b = 0; next && b < 2048; b += 64) _mm_prefetch(next + 2 * k + b, _MM_HINT_T1);
    finish(args, pending, share);
  });
  store_tiles<M, N>(sums);
}

// Rows against N panels; `weights` are those of exact elements.
template <int N>
inline void rows_of(const QgemmArgs* args, int64_t row, int64_t p, const uint16_t* weights, const char* next, Slot& into, Pending& pending) {
  const int64_t m = least(args->m - row, kBlockRows);
  if (args->tiles && m > 16) exact_block<2, N>(*args->tiles, row, weights, into.exact);
  else if (args->tiles) exact_block<1, N>(*args->tiles, row, weights, into.exact);
  if (m > 16) block<2, N>(args, row, p, next, into.sums, pending);
  else block<1, N>(args, row, p, next, into.sums, pending);
  finish(args, pending, kBlockRows);
  pending = {into.sums, into.exact, row, m, p, N, 0};
}

// A chunk of panels stays in L2 while rows pass by, and the codes of 32 rows in L1 (up to K of about 1000) while its panels do: so
// a row's results are written side by side, where columns of results would touch a page each.
void chunk_of(const QgemmArgs* args, int64_t begin, int64_t end, Slot* slots, int& slot, Pending& pending) {
  const int64_t bytes = S8::bytes(args->kp), depth = args->tiles ? args->tiles->depth : 0;
  uint16_t* weights = args->tiles ? args->tiles->weights : nullptr;
  for (int64_t p = begin; depth && p < end; ++p) widen(args, p, weights + (p - begin) * depth * kPanel);
  for (int64_t row = 0; row < args->m; row += kBlockRows) {
    for (int64_t p = begin; p < end; p += 2) {
      const uint16_t* columns = weights + (p - begin) * depth * kPanel;
      const bool more = args->fetch.panels && row == 0 && p + 4 <= args->panels;
      const char* next = more ? (const char*)args->w + (p + 2) * bytes : nullptr;
      Slot& into = slots[slot ^= 1];
      if (p + 2 <= end) rows_of<2>(args, row, p, columns, next, into, pending);
      else rows_of<1>(args, row, p, columns, nullptr, into, pending);
    }
  }
}

}  // namespace

void qgemm_s8s8s32_32x32x64_amx(const QgemmArgs* args) {
  Slot slots[2];
  int slot = 0;
  Pending pending = {slots[0].sums, slots[0].exact, 0, 0, 0, 0, 0};
  const int64_t chunk = qgemm_chunk(args->kp, args->tiles ? args->tiles->depth : 0, args->panels);
  configure_tiles(least(args->m, 16));
  for (int64_t p = 0; p < args->panels; p += chunk) chunk_of(args, p, least(p + chunk, args->panels), slots, slot, pending);
  finish(args, pending, kBlockRows);
  _tile_release();
}

}  // namespace lowbit
