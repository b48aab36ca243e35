// Packed panels as bfloat16 [k/2][16][2], the layout of B tiles. Integers of a row are exact, and the row's scale comes later; numbers that have
// their own scale in each group are rounded. AVX-512 with BF16.
#pragma once
#include "vec/avx512.h"
#include "fgemm/unpack.h"

namespace lowbit {
namespace {

// Numbers of adjacent k, as the hardware rounds them.
inline __m512i pair_of(Vec even, Vec odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd.r, even.r));
}

// The high half of a small integer's float is its bfloat16.
inline __m512i pair_of_integers(Vec even, Vec odd) {
  return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(_mm512_castps_si512(even.r), 16), _mm512_castps_si512(odd.r));
}

// Of a format whose panels have a scale for each span; without groups it is left to result().
template <class F>
void widen(const int8_t* panel, int64_t kp, int64_t group, uint16_t* b) {
  const float* scales = F::scales(panel, kp);
  const int64_t span = F::span(kp, group);
  for (int64_t k = 0; k < kp; k += F::kCodes) {
    const Words words = load_words(panel + F::code_bytes(k));
    const Vec scale = F::kGrouped ? load(scales + k / span * kPanel) : splat(1.0f);
    for (int i = 0; i < F::kCodes; i += 2) {
      const Vec even = code(F{}, words, i), odd = code(F{}, words, i + 1);
      _mm512_store_si512(b + (k + i) * kPanel, F::kGrouped ? pair_of(even * scale, odd * scale) : pair_of_integers(even, odd));
    }
  }
}

// Of lines: of integers without the outer scale of the row.
template <class A, int64_t kStep>
void widen_steps(const int8_t* panel, int64_t kp, int64_t group, uint16_t* b) {
  const Vec outer = load(A::outer(panel, kp, group));
  for (int64_t k = 0; k < kp; k += kStep) {
    Line<typename A::Lines> line = line_at<A>(panel, kp, group, k, 0);
    if (!A::kNested) line.times(outer);
#pragma GCC unroll 8
    for (int quad = 0; quad < kStep / 4; ++quad) {
      const Words codes = line.codes(quad_of<A>(panel, k, quad, 0));
      for (int i = 0; i < 4; i += 2) {
        const Vec even = line.number(codes, i), odd = line.number(codes, i + 1);
        _mm512_store_si512(b + (k + 4 * quad + i) * kPanel, A::kNested ? pair_of_integers(even, odd) : pair_of(even, odd));
      }
    }
  }
}

template <class A>
void widen_lines(const int8_t* panel, int64_t kp, int64_t group, uint16_t* b) {
  group < kHalf ? widen_steps<A, kLeastGroup<A>>(panel, kp, group, b) : widen_steps<A, kHalf>(panel, kp, group, b);
}

}  // namespace
}  // namespace lowbit
