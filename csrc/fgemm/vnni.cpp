#include "vec/avx512.h"
#include "fgemm/fixed.h"

namespace lowbit {
namespace {

// Few rows: codes become floats in registers. Sums of M rows with the lines of a span of K, in four parts each.
template <class F, int M>
struct Dots {
  __m512 acc[M][4];
  Dots() {
    for (int i = 0; i < M; ++i) {
      for (int s = 0; s < 4; ++s) acc[i][s] = _mm512_setzero_ps();
    }
  }
  void add(const int8_t* line, const float* x, int64_t ldx, int64_t k) {
    const Words words = load_words(line);
    for (int b = 0; b < F::kCodes; ++b) {
      const __m512 w = code(F{}, words, b).r;
      for (int i = 0; i < M; ++i) acc[i][b % 4] = _mm512_fmadd_ps(_mm512_set1_ps(x[i * ldx + k + b]), w, acc[i][b % 4]);
    }
  }
  __m512 sum(int i) const { return _mm512_add_ps(_mm512_add_ps(acc[i][0], acc[i][1]), _mm512_add_ps(acc[i][2], acc[i][3])); }
};

// A 16-byte load is 4 output rows by 4 k, so acc[i][s] holds, for output rows 4s..4s+3, four partial sums each; they are added at the end.
template <int M>
struct Dots<S8, M> {
  __m512 acc[M][4];
  Dots() {
    for (int i = 0; i < M; ++i) {
      for (int s = 0; s < 4; ++s) acc[i][s] = _mm512_setzero_ps();
    }
  }
  void add(const int8_t* line, const float* x, int64_t ldx, int64_t k) {
    __m512 w[4];
    for (int s = 0; s < 4; ++s) w[s] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(line + 16 * s))));
    for (int i = 0; i < M; ++i) {
      const __m512 a = _mm512_broadcast_f32x4(_mm_loadu_ps(x + i * ldx + k));
      for (int s = 0; s < 4; ++s) acc[i][s] = _mm512_fmadd_ps(a, w[s], acc[i][s]);
    }
  }
  __m512 sum(int i) const {
    const __m512 a = _mm512_unpacklo_ps(acc[i][0], acc[i][1]), b = _mm512_unpackhi_ps(acc[i][0], acc[i][1]);
    const __m512 c = _mm512_unpacklo_ps(acc[i][2], acc[i][3]), d = _mm512_unpackhi_ps(acc[i][2], acc[i][3]);
    const __m512 low = _mm512_add_ps(a, b), high = _mm512_add_ps(c, d);  // lane: (s0 s1 s0 s1), (s2 s3 s2 s3)
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xee));
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), sums);
  }
};

template <class F, int M>
void gemv(const FgemmArgs* args, int64_t row, int64_t p) {
  const int64_t kp = args->kp, span = F::span(kp, args->group);
  const int8_t* panel = args->w + p * F::bytes(kp, args->group);
  const float* scales = F::scales(panel, kp);
  const float* x = (const float*)args->x + row * args->ldx;
  Vec total[M];
  for (int i = 0; i < M; ++i) total[i] = splat(0.0f);
  for (int64_t start = 0; start < kp; start += span, scales += kPanel) {
    Dots<F, M> dots;
    for (int64_t k = start; k < start + span; k += F::kCodes) {
      const int8_t* line = panel + F::code_bytes(k);
      _mm_prefetch((const char*)line + 2048, _MM_HINT_T0);
      dots.add(line, x, args->ldx, k);
    }
    const Vec scale = load(scales);
    for (int i = 0; i < M; ++i) total[i] = F::kGrouped ? fma({dots.sum(i)}, scale, total[i]) : Vec{dots.sum(i)} * scale;
  }
  for (int i = 0; i < M; ++i) finish(args, row + i, p, &total[i]);
}

template <class F>
void few_rows(const FgemmArgs* args) {
  if (args->rotate) return product<12, 4, 1>(args, F::bytes(args->kp, args->group), unpack<F>);
  for (int64_t p = 0; p < args->panels; ++p) {
    int64_t i = 0;
    for (; i + 4 <= args->m; i += 4) gemv<F, 4>(args, i, p);
    switch (args->m - i) {
      case 1: gemv<F, 1>(args, i, p); break;
      case 2: gemv<F, 2>(args, i, p); break;
      case 3: gemv<F, 3>(args, i, p); break;
    }
  }
}

// The high and the low bytes of four numbers, one after the other.
struct Halves {
  Words high = no_words(), low = no_words();
  void add(Words codes, const int16_t* x) {
    high = add_dots(high, codes, splat_word(x));
    low = add_dots(low, codes, splat_word(x + 2));
  }
  Vec total() const { return as_floats(shifted(high, -8) + low); }
};

}  // namespace

#define DEFINE(name, Format)                                                          \
  void fgemv_f32##name##_4x16_vnni(const FgemmArgs* args) { few_rows<Format>(args); } \
  void fgemm_f32##name##_12x16_vnni(const FgemmArgs* args) { product<12, 4, 1>(args, Format::bytes(args->kp, args->group), unpack<Format>); }
LOWBIT_FORMATS(DEFINE)

#define LINES(name, Format) \
  void fgemm_f32##name##_12x16_vnni(const FgemmArgs* args) { product<12, 4, 1>(args, Format::bytes(args->kp, args->group), unpack_lines<Format>); }
LOWBIT_PLANES(LINES)

#define FIXED(name, Format) \
  void fgemm_s16##name##_4x16_vnni(const FgemmArgs* args) { fixed_product<Format, Halves>(args); }
LOWBIT_FIXED(FIXED)

}  // namespace lowbit
