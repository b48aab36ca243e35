#include <immintrin.h>

#include "common/types.h"

namespace lowbit {

void exact_s8_1x16_avx2(const ExactRows* rows, int64_t m, const int8_t* panel, float* table, float* out) {
  for (int64_t c = 0; c < rows->used; ++c) {
    const int64_t k = rows->columns[c];
    const __m128i up = _mm_cvtsi64_si128(24 - 8 * (k % 4));  // the byte to the top of its lane, then down with its sign
    for (int h = 0; h < 2; ++h) {
      const __m256i w = _mm256_loadu_si256((const __m256i*)(panel + k / 4 * 64 + 32 * h));
      _mm256_storeu_ps(table + c * 16 + 8 * h, _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_sll_epi32(w, up), 24)));
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    const float* value = rows->value + i * rows->capacity;
    __m256 low = _mm256_setzero_ps(), high = low;
    for (int64_t e = 0; e < rows->count[i]; ++e) {
      const float* w = table + 16 * (rows->position ? rows->position[i * rows->capacity + e] : e);
      const __m256 x = _mm256_set1_ps(value[e]);
      low = _mm256_fmadd_ps(x, _mm256_loadu_ps(w), low);
      high = _mm256_fmadd_ps(x, _mm256_loadu_ps(w + 8), high);
    }
    _mm256_storeu_ps(out + i * 16, low);
    _mm256_storeu_ps(out + i * 16 + 8, high);
  }
}

}  // namespace lowbit
