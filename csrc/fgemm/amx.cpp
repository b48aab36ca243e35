// Integer weights are exact in bfloat16: 2x2 tiles of 16x16 float32 sums, 32 of K a step, from panels widened to bfloat16
// in scratch. The hardware takes bfloat16 subnormals as zero.
#include "common/amx.h"
#include "common/avx512.h"

namespace lowbit {
namespace {

inline __m512i pair(__m512i even, __m512i odd) { return _mm512_mask_blend_epi16(0xaaaaaaaau, even, odd); }

inline __m512i code_s8(__m512i lanes, int b) {
  return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(lanes, 24 - 8 * b), 24)));
}

// [kp/2][16][2] bfloat16, the layout of a B tile. The high half of a small integer's float is its bfloat16.
void widen_s8(const int8_t* panel, int64_t kp, uint16_t* b) {
  for (int64_t k = 0; k < kp; k += 4) {
    const __m512i lanes = _mm512_loadu_si512(panel + k * 16);
    _mm512_store_si512(b + k * 16, pair(_mm512_srli_epi32(code_s8(lanes, 0), 16), code_s8(lanes, 1)));
    _mm512_store_si512(b + k * 16 + 32, pair(_mm512_srli_epi32(code_s8(lanes, 2), 16), code_s8(lanes, 3)));
  }
}

// bfloat16 -8..7, twice: vpermw reads five bits, the fifth is a neighbour's.
inline __m512i values_s4() {
  const __m512i once = _mm512_castsi256_si512(_mm256_setr_epi16(
      (short)0xc100, (short)0xc0e0, (short)0xc0c0, (short)0xc0a0, (short)0xc080, (short)0xc040, (short)0xc000, (short)0xbf80, 0,
      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0));
  return _mm512_inserti64x4(once, _mm512_castsi512_si256(once), 1);
}

// Halves of 16 bits: nibble c of bytes (0, 2) for c = 0, 1 and of bytes (1, 3) for c = 2, 3; odd c is the next k-group.
inline __m512i pairs_s4(__m512i lanes, int c, __m512i values) { return _mm512_permutexvar_epi16(_mm512_srli_epi16(lanes, 4 * c), values); }

void widen_s4(const int8_t* panel, int64_t kp, uint16_t* b) {
  const __m512i values = values_s4();
  for (int64_t k = 0; k < kp; k += 8) {
    const __m512i lanes = _mm512_loadu_si512(panel + k * 8);
    for (int g = 0; g < 2; ++g) {
      const __m512i even = pairs_s4(lanes, g, values), odd = pairs_s4(lanes, 2 + g, values);
      _mm512_store_si512(b + (k + 4 * g) * 16, pair(even, _mm512_slli_epi32(odd, 16)));
      _mm512_store_si512(b + (k + 4 * g) * 16 + 32, pair(_mm512_srli_epi32(even, 16), odd));
    }
  }
}

constexpr int64_t kRows = 32;            // of a block
constexpr int64_t kSums = kRows * 32;    // floats of a block: rows of two halves of 16
constexpr int64_t kMostDepth = 448;      // K of two widened panels that stay in L1 while rows pass by
constexpr int64_t kChunk = 4;            // blocks of rows whose sums wait in memory when K is deeper than that

// A block whose sums are complete, and how many of its rows have been written out (see qgemm/amx.cpp).
struct Pending {
  const float* sums;
  int64_t row, m, panel, panels, done;
};

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

inline void finish(const FgemmArgs* args, Pending& pending, int64_t rows) {
  const int64_t stop = least(pending.done + rows, pending.m), bytes = panel_bytes(args->kp, args->group);
  const Dtype dtype = args->out.dtype;
  for (; pending.done < stop; ++pending.done) {
    const int64_t row = pending.row + pending.done;
    for (int64_t j = 0; j < pending.panels; ++j) {
      const int64_t p = pending.panel + j, n = p * 16;
      const __mmask16 mask = first(args->out.n - n);
      __m512 y = _mm512_load_ps(pending.sums + pending.done * 32 + j * 16);
      if (args->group == 0) y = _mm512_mul_ps(y, _mm512_loadu_ps(panel_scales(args->w + p * bytes, args->kp)));
      if (args->out.bias) y = _mm512_add_ps(y, _mm512_loadu_ps(args->out.bias + n));
      char* out = (char*)args->out.data + (row * args->out.stride + n) * element_size(dtype);
      if (dtype == kBF16) _mm256_mask_storeu_epi16(out, mask, (__m256i)_mm512_cvtneps_pbh(y));
      else store16(out, dtype, 0, mask, y);
    }
  }
}

// M x N tiles over K from start to stop; added to what `sums` holds if `more`. A few rows of `pending` follow each step.
template <int M, int N>
inline void product_of(const FgemmArgs* args, const uint16_t* a, int64_t start, int64_t stop, bool more, float* sums, Pending& pending,
                       int64_t share) {
  const int64_t kp = args->kp;
  const uint16_t* b = (const uint16_t*)args->scratch;
  if (more) {
    _tile_loadd(0, sums, 128);
    if (N == 2) _tile_loadd(1, sums + 16, 128);
    if (M == 2) _tile_loadd(2, sums + 16 * 32, 128);
    if (M == 2 && N == 2) _tile_loadd(3, sums + 16 * 32 + 16, 128);
  } else {
    _tile_zero(0);
    if (N == 2) _tile_zero(1);
    if (M == 2) _tile_zero(2);
    if (M == 2 && N == 2) _tile_zero(3);
  }
  for (int64_t k = start; k < stop; k += 32) {
    _tile_loadd(4, a + k * 16, 64);
    _tile_loadd(6, b + k * 16, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (N == 2) {
      _tile_loadd(7, b + (kp + k) * 16, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (M == 2) {
      _tile_loadd(5, a + (kp + k) * 16, 64);
      _tile_dpbf16ps(2, 5, 6);
      if (N == 2) _tile_dpbf16ps(3, 5, 7);
    }
    finish(args, pending, share);
  }
  _tile_stored(0, sums, 128);
  if (N == 2) _tile_stored(1, sums + 16, 128);
  if (M == 2) _tile_stored(2, sums + 16 * 32, 128);
  if (M == 2 && N == 2) _tile_stored(3, sums + 16 * 32 + 16, 128);
}

// int4: the sums of each group meet the group's scales.
template <int M, int N>
inline void groups_of(const FgemmArgs* args, const uint16_t* a, int64_t m, int64_t p, int64_t start, int64_t stop, float* total,
                      Pending& pending, int64_t share) {
  alignas(64) float sums[kSums];
  const int64_t bytes = panel_bytes(args->kp, args->group);
  for (int64_t k = start; k < stop; k += args->group) {
    product_of<M, N>(args, a, k, k + args->group, false, sums, pending, share);
    for (int j = 0; j < N; ++j) {
      const __m512 scale = _mm512_loadu_ps(panel_group_scales(args->w + (p + j) * bytes, args->kp) + k / args->group * 16);
      for (int64_t i = j * 16; i < m * 32; i += 32) {
        const __m512 before = k ? _mm512_load_ps(total + i) : _mm512_setzero_ps();
        _mm512_store_ps(total + i, _mm512_fmadd_ps(_mm512_load_ps(sums + i), scale, before));
      }
    }
  }
}

template <int M, int N>
inline void block(const FgemmArgs* args, int64_t row, int64_t m, int64_t p, int64_t start, int64_t stop, float* sums, Pending& pending) {
  const uint16_t* a = (const uint16_t*)args->x + row * args->kp;
  const int64_t steps = (stop - start) / 32, share = (pending.m - pending.done + steps - 1) / steps;
  if (args->group) groups_of<M, N>(args, a, m, p, start, stop, sums, pending, share);
  else product_of<M, N>(args, a, start, stop, start != 0, sums, pending, share);
}

template <int N>
void panels_of(const FgemmArgs* args, int64_t p, float (*sums)[kSums], int64_t& slot, Pending& pending) {
  const int64_t kp = args->kp, parts = (kp + kMostDepth - 1) / kMostDepth;
  const int64_t depth = round_up((kp + parts - 1) / parts, args->group ? args->group : 32);
  const int64_t chunk = parts == 1 ? kRows : kRows * kChunk;
  uint16_t* b = (uint16_t*)args->scratch;
  for (int j = 0; j < N; ++j) {
    const int8_t* panel = args->w + (p + j) * panel_bytes(kp, args->group);
    if (args->group) widen_s4(panel, kp, b + j * kp * 16);
    else widen_s8(panel, kp, b + j * kp * 16);
  }
  for (int64_t top = 0; top < args->m; top += chunk) {
    const int64_t rows = least(args->m - top, chunk);
    for (int64_t start = 0; start < kp; start += depth) {
      const int64_t stop = least(start + depth, kp);
      for (int64_t r = 0; r < rows; r += kRows) {
        const int64_t m = least(rows - r, kRows);
        float* into = sums[(slot + r / kRows) % (2 * kChunk)];
        if (m > 16) block<2, N>(args, top + r, m, p, start, stop, into, pending);
        else block<1, N>(args, top + r, m, p, start, stop, into, pending);
        if (stop == kp) {
          finish(args, pending, kRows);
          pending = {into, top + r, m, p, N, 0};
        }
      }
    }
    slot = (slot + chunk / kRows) % (2 * kChunk);
  }
}

void product(const FgemmArgs* args) {
  alignas(64) float sums[2 * kChunk][kSums];
  int64_t slot = 0, p = 0;
  Pending pending = {sums[0], 0, 0, 0, 0, 0};
  configure_tiles(least(args->m, 16));
  for (; p + 2 <= args->panels; p += 2) panels_of<2>(args, p, sums, slot, pending);
  if (p < args->panels) panels_of<1>(args, p, sums, slot, pending);
  finish(args, pending, kRows);
  _tile_release();
}

}  // namespace

void fgemm_bf16s8_32x32x32_amx(const FgemmArgs* args) { product(args); }
void fgemm_bf16s4_32x32x32_amx(const FgemmArgs* args) { product(args); }

}  // namespace lowbit
