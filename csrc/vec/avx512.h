// Vectors of 16 floats in AVX-512. The three files of this folder have one interface, over which the algorithms are written once.
#pragma once
#include "common/avx512.h"

namespace lowbit {
namespace {  // internal linkage: no symbol compiled for AVX-512 may serve baseline code

struct Vec {
  static constexpr int64_t kWidth = 16;
  __m512 r;
};
struct Mask {
  __mmask16 r;
};
struct Words {  // of 32 bits
  __m512i r;
};

inline Vec splat(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.r); }
inline Words load_words(const void* p) { return {_mm512_loadu_si512(p)}; }
// The numbers in `count` bits of each word, from bit `from` on: signed; or in four bits, less `less`.
inline Vec signed_bits(Words w, int from, int count) {
  return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(w.r, 32 - count - from), 32 - count))};
}
inline Vec four_bits(Words w, int from, int less) {
  const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_permutexvar_ps(_mm512_srli_epi32(w.r, from), _mm512_sub_ps(values, _mm512_set1_ps(less)))};
}

inline Vec unsigned_byte(Words w, int i) { return {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(w.r, 8 * i), _mm512_set1_epi32(255)))}; }

// Words and their bits, for codes that lie in parts of them: shifted to the right, or to the left where `right` is negative.
inline Words no_words() { return {_mm512_setzero_si512()}; }
inline Words shifted(Words w, int right) { return {right < 0 ? _mm512_slli_epi32(w.r, -right) : _mm512_srli_epi32(w.r, right)}; }
inline Words masked(Words w, uint32_t mask) { return {_mm512_and_si512(w.r, _mm512_set1_epi32((int)mask))}; }
inline Words joined(Words a, Words b) { return {_mm512_or_si512(a.r, b.r)}; }
inline Words splat_word(const void* p) { return {_mm512_set1_epi32(*(const int*)p)}; }
inline Vec as_floats(Words w) { return {_mm512_cvtepi32_ps(w.r)}; }
// Products of unsigned and of signed bytes, added by fours to 32 bits. With its intrinsic g++ 12 copies sums (see qgemm/vnni.cpp).
inline Words add_dots(Words sum, Words bytes, Words x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum.r) : "v"(bytes.r), "v"(x.r));
  return sum;
}
inline Words operator+(Words a, Words b) { return {_mm512_add_epi32(a.r, b.r)}; }
inline Words operator*(Words a, Words b) { return {_mm512_mullo_epi32(a.r, b.r)}; }
inline Words operator^(Words a, Words b) { return {_mm512_xor_si512(a.r, b.r)}; }
inline Words signed_words(const int8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
// The 32 bits as a signed number, divided by a power of two.
inline Words signed_shift(Words w, int right) { return {_mm512_srai_epi32(w.r, right)}; }
// Bytes of a table of 16 for bytes below 16; floats of one for the low byte of words, the others of whose bits count for nothing.
inline Words looked_up(const uint8_t* table, Words w) {
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), w.r)};
}
inline Vec number_at(const float* table, Words w) { return {_mm512_permutexvar_ps(w.r, _mm512_loadu_ps(table))}; }
inline void store_words(void* p, Words w) { _mm512_storeu_si512(p, w.r); }
// Each byte times a small number, whose product is below 256, plus another; and kWidth such numbers, for all bytes of a word.
inline Words lines_of(Words bytes, Words scale, Words minimum) { return {_mm512_add_epi8(_mm512_mullo_epi16(bytes.r, scale.r), minimum.r)}; }
inline Words scales_of(const uint8_t* p) { return {_mm512_mullo_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)), _mm512_set1_epi32(0x10001))}; }
inline Words minima_of(const int8_t* p) { return {_mm512_mullo_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)), _mm512_set1_epi32(0x1010101))}; }

// Elements i ... of a row of any dtype; the second form reads the first `count` and puts `fill` in the others.
template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i) { return {load16(row, dtype, i, 0xffff)}; }
template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i, int64_t count, float fill) {
  return {_mm512_mask_mov_ps(_mm512_set1_ps(fill), first(count), load16(row, dtype, i, first(count)))};
}
// Elements i ... i + 31 come as two vectors, `part` 0 and 1, in an order that is the dtype's own and the same for every row; the second form
// reads the first `count` and puts zeros in the others. Of bfloat16 the even and the odd places, which one shift and one mask widen.
template <Dtype dtype, int part>
inline Vec load_part(const void* row, int64_t i) {
  if (dtype != kBF16) return load_as<dtype>(row, i + 16 * part);
  const __m512i pairs = _mm512_loadu_si512((const uint16_t*)row + i);
  return {_mm512_castsi512_ps(part ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u)) : _mm512_slli_epi32(pairs, 16))};
}
template <Dtype dtype, int part>
inline Vec load_part(const void* row, int64_t i, int64_t count) {
  if (dtype != kBF16) return load_as<dtype>(row, i + 16 * part, count - 16 * part, 0);
  alignas(64) uint16_t pairs[32];
  _mm512_store_si512(pairs, _mm512_maskz_loadu_epi16(first32(count), (const uint16_t*)row + i));
  return load_part<dtype, part>(pairs, 0);
}
// 16 signed bytes, or the first `count` and zeros.
inline Vec load_bytes(const int8_t* p) { return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))}; }
inline Vec load_bytes(const int8_t* p, int64_t count) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(count), p)))};
}
template <Dtype dtype>
inline void in_order(Vec& x, Vec& y) {
  if (dtype != kBF16) return;
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512 even = x.r, odd = y.r;
  x.r = _mm512_permutex2var_ps(even, low, odd);
  y.r = _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), odd);
}
template <Dtype dtype>
inline void store_as(void* row, int64_t i, Vec x) { store16(row, dtype, i, 0xffff, x.r); }
template <Dtype dtype>
inline void store_as(void* row, int64_t i, int64_t count, Vec x) { store16(row, dtype, i, first(count), x.r); }
inline void store_some(void* row, Dtype dtype, int64_t i, int64_t count, Vec x) { store16(row, dtype, i, first(count), x.r); }
// Past the caches; row + i must be aligned to a vector of that dtype. stream_end() must follow.
template <Dtype dtype>
inline void stream_as(void* row, int64_t i, Vec x) {
  if (dtype == kF32) _mm512_stream_ps((float*)row + i, x.r);
  else _mm256_stream_si256((__m256i*)((uint16_t*)row + i), dtype == kBF16 ? to_bf16(x.r) : _mm512_cvtps_ph(x.r, _MM_FROUND_TO_NEAREST_INT));
}
inline void stream_end() { _mm_sfence(); }

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.r, b.r)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.r, b.r)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.r, b.r)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.r, b.r)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.r, b.r, c.r)}; }
inline Vec add_product(Vec a, Vec b, Vec c) { return fma(a, b, c); }  // a * b + c the fastest way: rounded once or twice
inline Vec floor_of(Vec x) { return {_mm512_roundscale_ps(x.r, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline Vec smaller(Vec a, Vec b) { return {_mm512_min_ps(a.r, b.r)}; }  // b if either is NaN
inline Vec larger(Vec a, Vec b) { return {_mm512_max_ps(a.r, b.r)}; }   // b if either is NaN
inline Vec times_power(Vec m, Vec n) { return {_mm512_scalef_ps(m.r, n.r)}; }  // m * 2^floor(n); n may be infinite
// t - floor(t), and an n for times_power; of -infinity a finite fraction.
inline Vec fraction(Vec t, Vec& n) {
  n = t;
  return {_mm512_reduce_ps(t.r, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
inline Vec scaled(Vec m, Vec n) { return times_power(m, n); }          // the same at n <= 128, where what is below 2^-126 may become zero

inline Mask above(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.r, b.r, _CMP_GT_OQ)}; }
inline Mask at_least(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.r, b.r, _CMP_GE_OQ)}; }
inline Mask equal(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.r, b.r, _CMP_EQ_OQ)}; }
inline Mask is_nan(Vec a) { return {_mm512_cmp_ps_mask(a.r, a.r, _CMP_UNORD_Q)}; }
inline Mask operator|(Mask a, Mask b) { return {(__mmask16)(a.r | b.r)}; }
inline bool any(Mask m) { return m.r != 0; }
inline uint32_t bits_of(Mask m) { return m.r; }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_mov_ps(no.r, m.r, yes.r)}; }
inline Mask bytes_set(const uint8_t* p, int64_t count) { return {(__mmask16)_mm_test_epi8_mask(_mm_maskz_loadu_epi8(first(count), p), _mm_set1_epi8(-1))}; }
// Bytes that are 0 or 1 become 1 where the mask says so.
inline void set_bytes(uint8_t* p, Mask m) {
  _mm_storeu_si128((__m128i*)p, _mm_mask_mov_epi8(_mm_loadu_si128((const __m128i*)p), m.r, _mm_set1_epi8(1)));
}

// Bits of |x|: compared as integers, NaN is the largest.
inline Words magnitude(Vec x) { return {_mm512_and_si512(_mm512_castps_si512(x.r), _mm512_set1_epi32(0x7fffffff))}; }
inline Vec absolute(Vec x) { return {_mm512_castsi512_ps(magnitude(x).r)}; }
inline Words larger(Words a, Words b) { return {_mm512_max_epu32(a.r, b.r)}; }
inline uint32_t max_of(Words w) { return _mm512_reduce_max_epu32(w.r); }

inline float sum_of(Vec x) { return _mm512_reduce_add_ps(x.r); }
inline float max_of(Vec x) { return _mm512_reduce_max_ps(x.r); }

// Lane i gets u[i] + x[i] or, where i has the bit `half`, u[i] - x[i], u being the partner: half = 1, 2, ..., kWidth / 2. The product with +-1
// is exact, so the fused form rounds once, like the plain sum.
template <int half>
inline Vec butterfly(Vec x) {
  constexpr float a = half & 1 ? -1 : 1, b = half & 2 ? -1 : 1, c = half & 4 ? -1 : 1, d = half & 8 ? -1 : 1;
  const __m512 sign = _mm512_setr_ps(1, a, b, a * b, c, a * c, b * c, a * b * c, d, a * d, b * d, a * b * d, c * d, a * c * d, b * c * d,
                                     a * b * c * d);
  const __m512 partner = half == 1 ? _mm512_permute_ps(x.r, 0xb1) : half == 2 ? _mm512_permute_ps(x.r, 0x4e)
                       : half == 4 ? _mm512_shuffle_f32x4(x.r, x.r, 0xb1) : _mm512_shuffle_f32x4(x.r, x.r, 0x4e);
  return {_mm512_fmadd_ps(x.r, sign, partner)};
}

// To the nearest integers, ties to even, of magnitude up to 127 (only their low bytes count); and four times kWidth of these as bytes ^ flip.
inline Words rounded(Vec x) { return {_mm512_cvtps_epi32(x.r)}; }
inline void store_bytes(int8_t* to, const Words* c, uint8_t flip) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);  // undoes the packs' lanes
  const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(c[0].r, c[1].r), _mm512_packs_epi32(c[2].r, c[3].r));
  _mm512_storeu_si512(to, _mm512_xor_si512(_mm512_permutexvar_epi32(order, packed), _mm512_set1_epi8((char)flip)));
}

// x[i] lane j becomes x[j] lane i.
inline void transpose(Vec* x) { transpose16((__m512i*)x); }  // __m512i may alias

// Lane j of each quarter is the sum of that quarter of x[j], j below 4.
inline Vec sums_of_four(const Vec* x) {
  const __m512 a = x[0].r, b = x[1].r, c = x[2].r, d = x[3].r;
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  return {_mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee))};
}
// Lane j is the sum of the lanes of vector j of those that sums_of_four took, four by four.
inline Vec sums_of_fours(const Vec* x) {
  const __m512 low = _mm512_add_ps(_mm512_shuffle_f32x4(x[0].r, x[1].r, 0x88), _mm512_shuffle_f32x4(x[0].r, x[1].r, 0xdd));
  const __m512 high = _mm512_add_ps(_mm512_shuffle_f32x4(x[2].r, x[3].r, 0x88), _mm512_shuffle_f32x4(x[2].r, x[3].r, 0xdd));
  return {_mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd))};
}

}  // namespace
}  // namespace lowbit
