#include "common/avx2.h"
#include "vec/avx2.h"
#include "rows/prologue.h"

namespace lowbit {
namespace {

inline __m256i magnitude(__m256 x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)); }

inline uint32_t reduce(__m256i a) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return (uint32_t)_mm_cvtsi128_si32(m);
}

uint32_t maximum(const float* v, int64_t kp) {
  __m256i a = _mm256_setzero_si256(), b = a;
  for (int64_t i = 0; i < kp; i += 16) {
    a = _mm256_max_epu32(a, magnitude(_mm256_load_ps(v + i)));
    b = _mm256_max_epu32(b, magnitude(_mm256_load_ps(v + i + 8)));
  }
  return reduce(_mm256_max_epu32(a, b));
}

uint32_t load(const void* row, Dtype dtype, int64_t k, int64_t kp, float* v) {
  int64_t i = 0;
  for (; i + 8 <= k; i += 8) _mm256_store_ps(v + i, load8(row, dtype, i));
  for (; i < k; ++i) v[i] = load_float(row, dtype, i);
  for (; i < kp; ++i) v[i] = 0;
  return maximum(v, kp);
}

// See rows/vnni.cpp: the product with +-1 is exact.
inline __m256 stage(__m256 v, __m256 partner, __m256 sign) { return _mm256_fmadd_ps(v, sign, partner); }

uint32_t rotate(float* v, int64_t kp) {
  const __m256 s1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), s2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
  const __m256 s4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1), eighth = _mm256_set1_ps(0.125f);
  __m256i a = _mm256_setzero_si256();
  for (int64_t i = 0; i < kp; i += kBlock) {
    __m256 r[8];
    for (int j = 0; j < 8; ++j) {
      __m256 x = _mm256_mul_ps(_mm256_load_ps(v + i + 8 * j), eighth);
      x = stage(x, _mm256_permute_ps(x, 0xb1), s1);
      x = stage(x, _mm256_permute_ps(x, 0x4e), s2);
      r[j] = stage(x, _mm256_permute2f128_ps(x, x, 0x01), s4);
    }
    for (int half = 1; half < 8; half *= 2) {
      for (int j = 0; j < 8; ++j) {
        if (j & half) continue;
        const __m256 x = r[j], y = r[j + half];
        r[j] = _mm256_add_ps(x, y);
        r[j + half] = _mm256_sub_ps(x, y);
      }
    }
    for (int j = 0; j < 8; ++j) {
      _mm256_store_ps(v + i + 8 * j, r[j]);
      a = _mm256_max_epu32(a, magnitude(r[j]));
    }
  }
  return reduce(a);
}

void codes(const float* v, int64_t kp, float inverse, uint8_t flip, int8_t* q, int64_t step) {
  const __m256 inv = _mm256_set1_ps(inverse);
  const __m256i flips = _mm256_set1_epi8((char)flip);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // undoes the packs' lanes
  for (int64_t i = 0; i < kp; i += 32) {
    __m256i c[4];
    for (int j = 0; j < 4; ++j) c[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(v + i + 8 * j), inv));
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
    _mm256_storeu_si256((__m256i*)(q + i / 64 * step + i % 64), _mm256_xor_si256(_mm256_permutevar8x32_epi32(packed, order), flips));
  }
}

inline __m256 absolute(const float* v) { return _mm256_castsi256_ps(magnitude(_mm256_load_ps(v))); }

int64_t above(const float* v, int64_t kp, float cut, int64_t capacity, int32_t* index) {
  const __m256 bound = _mm256_set1_ps(cut);
  int64_t found = 0;
  for (int64_t i = 0; i < kp; i += 8) {
    for (int mask = _mm256_movemask_ps(_mm256_cmp_ps(absolute(v + i), bound, _CMP_GT_OQ)); mask; mask &= mask - 1) {
      if (found++ == capacity) return found;
      index[found - 1] = (int32_t)(i + __builtin_ctz(mask));
    }
  }
  return found;
}

void reach(const float* v, int64_t kp, float threshold, uint8_t* hit) {
  const __m256 bound = _mm256_set1_ps(threshold);
  for (int64_t i = 0; i < kp; i += 8) {
    const int mask = _mm256_movemask_ps(_mm256_cmp_ps(absolute(v + i), bound, _CMP_GE_OQ));
    for (int j = 0; mask >> j; ++j) hit[i + j] |= mask >> j & 1;
  }
}

}  // namespace

extern const RowKernels rows_avx2;
const RowKernels rows_avx2 = {load, maximum, rotate, codes, above, reach, apply_prologue};

}  // namespace lowbit
