#include <immintrin.h>

#include "common/types.h"

namespace lowbit {

void exact_s8_1x16_vnni(const ExactRows* rows, int64_t m, const int8_t* panel, float* table, float* out) {
  for (int64_t c = 0; c < rows->used; ++c) {
    const int64_t k = rows->columns[c];
    const __m128i up = _mm_cvtsi64_si128(24 - 8 * (k % 4));  // the byte to the top of its lane, then down with its sign
    const __m512i w = _mm512_loadu_si512(panel + k / 4 * 64);
    _mm512_storeu_ps(table + c * 16, _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_sll_epi32(w, up), 24)));
  }
  const int64_t capacity = rows->capacity;
  for (int64_t i = 0; i < m; ++i) {
    const float* value = rows->value + i * capacity;
    const int32_t* position = rows->position + (rows->position ? i * capacity : 0);
    __m512 a = _mm512_setzero_ps(), b = a;
    int64_t e = 0;
    for (; e + 2 <= rows->count[i]; e += 2) {
      const int64_t c0 = rows->position ? position[e] : e, c1 = rows->position ? position[e + 1] : e + 1;
      a = _mm512_fmadd_ps(_mm512_set1_ps(value[e]), _mm512_loadu_ps(table + 16 * c0), a);
      b = _mm512_fmadd_ps(_mm512_set1_ps(value[e + 1]), _mm512_loadu_ps(table + 16 * c1), b);
    }
    if (e < rows->count[i]) {
      const int64_t c0 = rows->position ? position[e] : e;
      a = _mm512_fmadd_ps(_mm512_set1_ps(value[e]), _mm512_loadu_ps(table + 16 * c0), a);
    }
    _mm512_storeu_ps(out + i * 16, _mm512_add_ps(a, b));
  }
}

}  // namespace lowbit
