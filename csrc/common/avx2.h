// Float rows in AVX2 (with F16C): loads and stores of 8 elements in any of the three dtypes.
#pragma once
#include <immintrin.h>

#include "common/convert.h"

namespace lowbit {

static inline __m256 load8(const void* row, Dtype dtype, int64_t i) {
  if (dtype == kF32) return _mm256_loadu_ps((const float*)row + i);
  const __m128i h = _mm_loadu_si128((const __m128i*)((const uint16_t*)row + i));
  return dtype == kBF16 ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)) : _mm256_cvtph_ps(h);
}

static inline __m128i to_bf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i kept = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan)), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
}

// Stores the first `count` of 8 elements; count may be anything.
static inline void store8(void* row, Dtype dtype, int64_t i, int64_t count, __m256 x) {
  if (count >= 8) {
    if (dtype == kF32) _mm256_storeu_ps((float*)row + i, x);
    else _mm_storeu_si128((__m128i*)((uint16_t*)row + i), dtype == kBF16 ? to_bf16(x) : _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    return;
  }
  float lanes[8];
  _mm256_storeu_ps(lanes, x);
  for (int64_t j = 0; j < count; ++j) store_float(row, dtype, i + j, lanes[j]);
}

}  // namespace lowbit
