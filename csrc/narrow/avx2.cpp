// As in narrow/vnni.cpp. A sum is that of a word's four codes.
#include <immintrin.h>
#include <string.h>

#include "common/types.h"

namespace lowbit {

void narrow_s8_avx2(const int8_t* panel, int64_t kp, int drop, int8_t* to) {
  const __m256i one = _mm256_set1_epi8(1), rest = _mm256_set1_epi8((char)((1 << (drop - 1)) - 1)), keep = _mm256_set1_epi8((char)(0xff << drop));
  const __m128i count = _mm_cvtsi32_si128(drop);
  __m256i sums[2] = {};
  for (int64_t i = 0; i < kp * kPanel; i += 64) {
    for (int h = 0; h < 2; ++h) {
      const __m256i codes = _mm256_loadu_si256((const __m256i*)(panel + i + 32 * h));
      const __m256i odd = _mm256_and_si256(_mm256_srl_epi16(codes, count), one);
      const __m256i rounded = _mm256_and_si256(_mm256_adds_epi8(codes, _mm256_add_epi8(odd, rest)), keep);
      _mm256_storeu_si256((__m256i*)(to + i + 32 * h), rounded);
      sums[h] = _mm256_add_epi32(sums[h], _mm256_madd_epi16(_mm256_maddubs_epi16(one, rounded), _mm256_set1_epi16(1)));
    }
  }
  for (int h = 0; h < 2; ++h) _mm256_storeu_si256((__m256i*)(S8::sums(to, kp) + 8 * h), sums[h]);
  memcpy((void*)S8::scales(to, kp), S8::scales(panel, kp), kPanel * 4);
}

}  // namespace lowbit
