// vpdpbusd multiplies unsigned by signed bytes: the codes come as q + 128, and 128 * sum(w) is taken off at the end. Sums
// wrap modulo 2^32, so the difference is exact.
#include "common/avx512.h"

namespace lowbit {
namespace {

inline __m512i broadcast4(const int8_t* q) { return _mm512_set1_epi32(*(const int*)q); }

// vpdpbusd. With its intrinsic g++ 12 copies every sum twice a step and keeps some in memory, at half the speed.
inline __m512i add_dots(__m512i sum, __m512i x, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}

// Sums of a row with a panel become results.
inline void finish(const QgemmArgs* args, int64_t row, int64_t p, __m512i acc) {
  const int64_t kp = args->kp, column = p * 16;
  const int8_t* panel = args->w + p * S8::bytes(kp);
  char* out = (char*)args->out.data + row * args->out.stride * element_size(args->out.dtype);
  const __m512i sum = _mm512_sub_epi32(acc, _mm512_slli_epi32(_mm512_loadu_si512(S8::sums(panel, kp)), 7));
  if (args->out.dtype == kS32) return _mm512_mask_storeu_epi32((int32_t*)out + column, first(args->out.n - column), sum);
  __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(args->scale[row]));
  if (args->exact) y = _mm512_add_ps(y, _mm512_loadu_ps(args->exact + (p * args->m + row) * 16));
  y = _mm512_mul_ps(y, _mm512_loadu_ps(S8::scales(panel, kp)));
  if (args->out.bias) y = _mm512_add_ps(y, _mm512_loadu_ps(args->out.bias + column));
  store16(out, args->out.dtype, column, first(args->out.n - column), y);
}

template <int M, int P>
void tile(const QgemmArgs* args, int64_t row, int64_t p) {
  const int64_t kp = args->kp, bytes = S8::bytes(kp), ldq = args->ldq;
  const int8_t* panel = args->w + p * bytes;
  const int8_t* q = args->q + row * ldq;
  const int64_t left = args->panels - p - P, ahead = left <= 0 || left > P ? P : left;
  const char* const after = left > 0 ? (const char*)panel + P * bytes : args->fetch.after;
  const char* next = args->fetch.panels && row == 0 ? after : nullptr;
  __m512i acc[M][P];
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < P; ++j) acc[i][j] = _mm512_setzero_si512();
  }
  for (int64_t g = 0; g < kp; g += 4) {
    __m512i w[P];
    for (int j = 0; j < P; ++j) w[j] = _mm512_loadu_si512(panel + j * bytes + g * 16);
    for (int j = 0; next && j < ahead; ++j) _mm_prefetch(next + j * bytes + g * 16, _MM_HINT_T1);
    for (int i = 0; i < M; ++i) {
      const __m512i x = broadcast4(q + i * ldq + g);
      for (int j = 0; j < P; ++j) acc[i][j] = add_dots(acc[i][j], x, w[j]);
    }
  }
  for (int j = 0; j < P; ++j) {
    for (int i = 0; i < M; ++i) finish(args, row + i, p + j, acc[i][j]);
  }
}

constexpr int64_t kAhead = 8192;  // bytes that are on their way from memory while one row is multiplied

// One row: panels are one stream of bytes, which is what memory is quickest at.
void one_row(const QgemmArgs* args) {
  const int64_t kp = args->kp, bytes = S8::bytes(kp), end = args->panels * bytes;
  for (int64_t p = 0; p < args->panels; ++p) {
    const int8_t* panel = args->w + p * bytes;
    const int64_t left = end - p * bytes;
    __m512i acc[4] = {};
    for (int64_t g = 0; g < kp; g += 16) {
      const int64_t at = g * 16;
      const bool inside = at + kAhead < left;
      const bool fetch = args->fetch.panels && (inside || args->fetch.after);
      const char* ahead = !fetch ? nullptr : inside ? (const char*)panel + at + kAhead : args->fetch.after + (at + kAhead - left);
      for (int i = 0; i < 4; ++i) {
        if (fetch) _mm_prefetch(ahead + 64 * i, _MM_HINT_T1);
        acc[i] = add_dots(acc[i], broadcast4(args->q + g + 4 * i), _mm512_loadu_si512(panel + at + 64 * i));
      }
    }
    finish(args, 0, p, _mm512_add_epi32(_mm512_add_epi32(acc[0], acc[1]), _mm512_add_epi32(acc[2], acc[3])));
  }
}

template <int P>
void rows_of(const QgemmArgs* args, int64_t p) {
  int64_t i = 0;
  for (; i + 6 <= args->m; i += 6) tile<6, P>(args, i, p);
  switch (args->m - i) {
    case 1: return tile<1, P>(args, i, p);
    case 2: return tile<2, P>(args, i, p);
    case 3: return tile<3, P>(args, i, p);
    case 4: return tile<4, P>(args, i, p);
    case 5: return tile<5, P>(args, i, p);
  }
}

}  // namespace

void qgemm_u8s8s32_6x64x4_vnni(const QgemmArgs* args) {
  if (args->m == 1) return one_row(args);
  int64_t p = 0;
  for (; p + 4 <= args->panels; p += 4) rows_of<4>(args, p);
  for (; p < args->panels; ++p) rows_of<1>(args, p);
}

}  // namespace lowbit
