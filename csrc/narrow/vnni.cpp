// 64 codes at a time. To nearest even: half a step is added, less 1 where the code above is even. Sums saturate at 127, whose upper bits are
// the largest code.
#include <immintrin.h>
#include <string.h>

#include "common/types.h"

namespace lowbit {

void narrow_s8_vnni(const int8_t* panel, int64_t kp, int drop, int8_t* to) {
  const __m512i one = _mm512_set1_epi8(1), rest = _mm512_set1_epi8((char)((1 << (drop - 1)) - 2)), keep = _mm512_set1_epi8((char)(0xff << drop));
  const __m128i count = _mm_cvtsi32_si128(drop);
  __m512i sums = _mm512_setzero_si512();
  for (int64_t i = 0; i < kp * kPanel; i += 64) {
    const __m512i codes = _mm512_loadu_si512(panel + i);
    // -1 - (rest | odd), as `rest` is even: what is taken off is what is to be added.
    const __m512i less = _mm512_ternarylogic_epi32(_mm512_srl_epi16(codes, count), one, rest, 0x15);
    const __m512i rounded = _mm512_and_si512(_mm512_subs_epi8(codes, less), keep);
    _mm512_storeu_si512(to + i, rounded);
    sums = _mm512_dpbusd_epi32(sums, one, rounded);
  }
  _mm512_storeu_si512((void*)S8::sums(to, kp), sums);
  memcpy((void*)S8::scales(to, kp), S8::scales(panel, kp), kPanel * 4);
}

}  // namespace lowbit
