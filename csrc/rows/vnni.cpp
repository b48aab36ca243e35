#include "common/avx512.h"
#include "vec/avx512.h"
#include "rows/prologue.h"

namespace lowbit {
namespace {

inline __m512i magnitude(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)); }

uint32_t maximum(const float* v, int64_t kp) {
  __m512i a = _mm512_setzero_si512(), b = a;
  for (int64_t i = 0; i < kp; i += 32) {
    a = _mm512_max_epu32(a, magnitude(_mm512_load_ps(v + i)));
    b = _mm512_max_epu32(b, magnitude(_mm512_load_ps(v + i + 16)));
  }
  return _mm512_reduce_max_epu32(_mm512_max_epu32(a, b));
}

template <Dtype dtype>
uint32_t load_as(const void* row, int64_t k, int64_t kp, float* v) {
  __m512i a = _mm512_setzero_si512(), b = a;
  int64_t i = 0;
  for (; i + 32 <= k; i += 32) {
    const __m512 x = load16(row, dtype, i, 0xffff), y = load16(row, dtype, i + 16, 0xffff);
    _mm512_store_ps(v + i, x);
    _mm512_store_ps(v + i + 16, y);
    a = _mm512_max_epu32(a, magnitude(x));
    b = _mm512_max_epu32(b, magnitude(y));
  }
  for (; i < kp; i += 16) {
    const __m512 x = load16(row, dtype, i, first(k - i));
    _mm512_store_ps(v + i, x);
    a = _mm512_max_epu32(a, magnitude(x));
  }
  return _mm512_reduce_max_epu32(_mm512_max_epu32(a, b));
}

uint32_t load(const void* row, Dtype dtype, int64_t k, int64_t kp, float* v) {
  if (dtype == kF32) return load_as<kF32>(row, k, kp, v);
  return dtype == kBF16 ? load_as<kBF16>(row, k, kp, v) : load_as<kF16>(row, k, kp, v);
}

// One stage inside a register: lane i gets u[i] + v[i] or u[i] - v[i], u being the partner. The product with +-1 is exact,
// so the fused form rounds once, like the plain sum.
inline __m512 stage(__m512 v, __m512 partner, __m512 sign) { return _mm512_fmadd_ps(v, sign, partner); }

uint32_t rotate(float* v, int64_t kp) {
  const __m512 one = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-1.0f), eighth = _mm512_set1_ps(0.125f);
  const __m512 s1 = _mm512_mask_mov_ps(one, 0xaaaa, minus), s2 = _mm512_mask_mov_ps(one, 0xcccc, minus);
  const __m512 s4 = _mm512_mask_mov_ps(one, 0xf0f0, minus), s8 = _mm512_mask_mov_ps(one, 0xff00, minus);
  __m512i a = _mm512_setzero_si512();
  for (int64_t i = 0; i < kp; i += kBlock) {
    __m512 r[4];
    for (int j = 0; j < 4; ++j) {
      __m512 x = _mm512_mul_ps(_mm512_load_ps(v + i + 16 * j), eighth);
      x = stage(x, _mm512_permute_ps(x, 0xb1), s1);
      x = stage(x, _mm512_permute_ps(x, 0x4e), s2);
      x = stage(x, _mm512_shuffle_f32x4(x, x, 0xb1), s4);
      r[j] = stage(x, _mm512_shuffle_f32x4(x, x, 0x4e), s8);
    }
    const __m512 p0 = _mm512_add_ps(r[0], r[1]), p1 = _mm512_sub_ps(r[0], r[1]);
    const __m512 p2 = _mm512_add_ps(r[2], r[3]), p3 = _mm512_sub_ps(r[2], r[3]);
    r[0] = _mm512_add_ps(p0, p2);
    r[1] = _mm512_add_ps(p1, p3);
    r[2] = _mm512_sub_ps(p0, p2);
    r[3] = _mm512_sub_ps(p1, p3);
    for (int j = 0; j < 4; ++j) {
      _mm512_store_ps(v + i + 16 * j, r[j]);
      a = _mm512_max_epu32(a, magnitude(r[j]));
    }
  }
  return _mm512_reduce_max_epu32(a);
}

void codes(const float* v, int64_t kp, float inverse, uint8_t flip, int8_t* q, int64_t step) {
  const __m512 inv = _mm512_set1_ps(inverse);
  const __m512i flips = _mm512_set1_epi8((char)flip);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);  // undoes the packs' lanes
  for (int64_t i = 0; i < kp; i += 64) {
    __m512i c[4];
    for (int j = 0; j < 4; ++j) c[j] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(v + i + 16 * j), inv));
    const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(c[0], c[1]), _mm512_packs_epi32(c[2], c[3]));
    _mm512_storeu_si512(q + i / 64 * step, _mm512_xor_si512(_mm512_permutexvar_epi32(order, packed), flips));
  }
}

int64_t above(const float* v, int64_t kp, float cut, int64_t capacity, int32_t* index) {
  const __m512 bound = _mm512_set1_ps(cut);
  int64_t found = 0;
  for (int64_t i = 0; i < kp; i += 64) {
    uint64_t mask = 0;
    for (int j = 0; j < 4; ++j) {
      const __m512 size = _mm512_abs_ps(_mm512_load_ps(v + i + 16 * j));
      mask |= (uint64_t)_mm512_cmp_ps_mask(size, bound, _CMP_GT_OQ) << (16 * j);
    }
    for (; mask; mask &= mask - 1) {
      if (found++ == capacity) return found;
      index[found - 1] = (int32_t)(i + __builtin_ctzll(mask));
    }
  }
  return found;
}

void reach(const float* v, int64_t kp, float threshold, uint8_t* hit) {
  const __m512 bound = _mm512_set1_ps(threshold);
  for (int64_t i = 0; i < kp; i += 16) {
    const __mmask16 mask = _mm512_cmp_ps_mask(_mm512_abs_ps(_mm512_load_ps(v + i)), bound, _CMP_GE_OQ);
    _mm_storeu_si128((__m128i*)(hit + i), _mm_mask_mov_epi8(_mm_loadu_si128((const __m128i*)(hit + i)), mask, _mm_set1_epi8(1)));
  }
}

}  // namespace

extern const RowKernels rows_vnni;
const RowKernels rows_vnni = {load, maximum, rotate, codes, above, reach, apply_prologue};

}  // namespace lowbit
