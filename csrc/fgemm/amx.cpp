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

template <int M, int N>
inline void sums_of(const uint16_t* x, int64_t ldx, const uint16_t* b, int64_t kp, int64_t start, int64_t stop, float* sums) {
  _tile_zero(0);
  if (N == 2) _tile_zero(1);
  if (M == 2) _tile_zero(2);
  if (M == 2 && N == 2) _tile_zero(3);
  for (int64_t k = start; k < stop; k += 32) {
    _tile_loadd(4, x + k, ldx * 2);
    _tile_loadd(6, b + k * 16, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (N == 2) {
      _tile_loadd(7, b + (kp + k) * 16, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (M == 2) {
      _tile_loadd(5, x + 16 * ldx + k, ldx * 2);
      _tile_dpbf16ps(2, 5, 6);
      if (N == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 128);
  if (N == 2) _tile_stored(1, sums + 16, 128);
  if (M == 2) _tile_stored(2, sums + 16 * 32, 128);
  if (M == 2 && N == 2) _tile_stored(3, sums + 16 * 32 + 16, 128);
}

template <int M, int N>
void tile(const FgemmArgs* args, const uint16_t* b, int64_t row, int64_t m, int64_t p, float* sums) {
  const int64_t kp = args->kp, bytes = panel_bytes(kp, args->group);
  const int8_t* panel = args->w + p * bytes;
  const uint16_t* x = (const uint16_t*)args->x + row * args->ldx;
  float* total = sums + 32 * 32;
  if (args->group) {
    for (int64_t start = 0; start < kp; start += args->group) {
      sums_of<M, N>(x, args->ldx, b, kp, start, start + args->group, sums);
      for (int j = 0; j < N; ++j) {
        const __m512 scale = _mm512_loadu_ps(panel_group_scales(panel + j * bytes, kp) + start / args->group * 16);
        for (int64_t i = 0; i < m; ++i) {
          const __m512 before = start ? _mm512_load_ps(total + i * 32 + j * 16) : _mm512_setzero_ps();
          _mm512_store_ps(total + i * 32 + j * 16, _mm512_fmadd_ps(_mm512_load_ps(sums + i * 32 + j * 16), scale, before));
        }
      }
    }
  } else {
    sums_of<M, N>(x, args->ldx, b, kp, 0, kp, sums);
  }
  for (int j = 0; j < N; ++j) {
    const int64_t n = (p + j) * 16;
    const __mmask16 mask = first(args->out.n - n);
    const __m512 scale = args->group ? _mm512_set1_ps(1) : _mm512_loadu_ps(panel_scales(panel + j * bytes, kp));
    for (int64_t i = 0; i < m; ++i) {
      __m512 y = args->group ? _mm512_load_ps(total + i * 32 + j * 16) : _mm512_mul_ps(_mm512_load_ps(sums + i * 32 + j * 16), scale);
      if (args->out.bias) y = _mm512_add_ps(y, _mm512_loadu_ps(args->out.bias + n));
      store16((char*)args->out.data + (row + i) * args->out.stride * element_size(args->out.dtype), args->out.dtype, n, mask, y);
    }
  }
}

template <int N>
void rows_of(const FgemmArgs* args, int64_t p, float* sums) {
  uint16_t* b = (uint16_t*)args->scratch;
  for (int j = 0; j < N; ++j) {
    const int8_t* panel = args->w + (p + j) * panel_bytes(args->kp, args->group);
    if (args->group) widen_s4(panel, args->kp, b + j * args->kp * 16);
    else widen_s8(panel, args->kp, b + j * args->kp * 16);
  }
  for (int64_t row = 0; row < args->m; row += 32) {
    const int64_t m = args->m - row < 32 ? args->m - row : 32;
    if (m > 16) tile<2, N>(args, b, row, m, p, sums);
    else tile<1, N>(args, b, row, m, p, sums);
  }
}

void product(const FgemmArgs* args) {
  alignas(64) float sums[2 * 32 * 32];
  configure_tiles(args->m < 16 ? args->m : 16);
  int64_t p = 0;
  for (; p + 2 <= args->panels; p += 2) rows_of<2>(args, p, sums);
  if (p < args->panels) rows_of<1>(args, p, sums);
  _tile_release();
}

// Few rows of bfloat16 with int4: pairs looked up as above meet x in the order 0 2 1 3 of every four.
template <int M>
void gemv(const FgemmArgs* args, const uint16_t* x, int64_t row, int64_t p) {
  const int64_t kp = args->kp, group = args->group;
  const int8_t* panel = args->w + p * panel_bytes_s4(kp, group);
  const float* scales = panel_group_scales(panel, kp);
  const __m512i values = values_s4();
  __m512 total[M];
  for (int i = 0; i < M; ++i) total[i] = _mm512_setzero_ps();
  for (int64_t start = 0; start < kp; start += group, scales += 16) {
    __m512 acc[M][4];
    for (int i = 0; i < M; ++i) {
      for (int c = 0; c < 4; ++c) acc[i][c] = _mm512_setzero_ps();
    }
    for (int64_t k = start; k < start + group; k += 8) {
      const __m512i lanes = _mm512_loadu_si512(panel + k * 8);
      _mm_prefetch((const char*)panel + k * 8 + 2048, _MM_HINT_T0);
      for (int c = 0; c < 4; ++c) {
        const __m512i w = pairs_s4(lanes, c, values);
        const int64_t at = k + 4 * (c % 2) + 2 * (c / 2);
        for (int i = 0; i < M; ++i) {
          const __m512i a = _mm512_set1_epi32(*(const int*)(x + i * kp + at));
          acc[i][c] = _mm512_dpbf16_ps(acc[i][c], (__m512bh)w, (__m512bh)a);
        }
      }
    }
    const __m512 scale = _mm512_loadu_ps(scales);
    for (int i = 0; i < M; ++i) {
      const __m512 sum = _mm512_add_ps(_mm512_add_ps(acc[i][0], acc[i][1]), _mm512_add_ps(acc[i][2], acc[i][3]));
      total[i] = _mm512_fmadd_ps(sum, scale, total[i]);
    }
  }
  for (int i = 0; i < M; ++i) {
    const int64_t n = p * 16;
    if (args->out.bias) total[i] = _mm512_add_ps(total[i], _mm512_loadu_ps(args->out.bias + n));
    char* out = (char*)args->out.data + (row + i) * args->out.stride * element_size(args->out.dtype);
    store16(out, args->out.dtype, n, first(args->out.n - n), total[i]);
  }
}

}  // namespace

void fgemm_bf16s8_32x32x32_amx(const FgemmArgs* args) { product(args); }
void fgemm_bf16s4_32x32x32_amx(const FgemmArgs* args) { product(args); }

void fgemv_bf16s4_4x16_amx(const FgemmArgs* args) {
  const int64_t kp = args->kp;
  uint16_t* x = (uint16_t*)args->scratch;
  // Exchange the middle two of every four: bytes 2-3 and 4-5 of each 8.
  const __m512i swap = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0f0e0b0a0d0c0908, 0x0706030205040100));
  for (int64_t start = 0; start < args->m; start += 32) {  // as many rows as scratch holds
    const int64_t m = args->m - start < 32 ? args->m - start : 32;
    for (int64_t i = 0; i < m; ++i) {
      const uint16_t* from = (const uint16_t*)args->x + (start + i) * args->ldx;
      for (int64_t k = 0; k < kp; k += 32) _mm512_store_si512(x + i * kp + k, _mm512_shuffle_epi8(_mm512_loadu_si512(from + k), swap));
    }
    for (int64_t p = 0; p < args->panels; ++p) {
      int64_t i = 0;
      for (; i + 4 <= m; i += 4) gemv<4>(args, x + i * kp, start + i, p);
      switch (m - i) {
        case 1: gemv<1>(args, x + i * kp, start + i, p); break;
        case 2: gemv<2>(args, x + i * kp, start + i, p); break;
        case 3: gemv<3>(args, x + i * kp, start + i, p); break;
      }
    }
  }
}

}  // namespace lowbit
