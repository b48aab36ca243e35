#include "common/avx2.h"

namespace lowbit {
namespace {

// Bytes 0 and 2 of each 32-bit lane as 16-bit numbers, and bytes 1 and 3: what vpmaddwd multiplies and adds up in pairs. On the way of
// |q| * (w with q's sign) through vpmaddubsw, four operations of a step of five share two ports of a Zen.
inline __m256i even(__m256i bytes) { return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8); }
inline __m256i odd(__m256i bytes) { return _mm256_srai_epi16(bytes, 8); }

// The sum is written out because g++ 12 would keep some of the sums in memory, where each step waits for the one before.
inline __m256i add_pairs(__m256i sum, __m256i x, __m256i w) {
  const __m256i pairs = _mm256_madd_epi16(x, w);
  asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(pairs));
  return sum;
}

constexpr int64_t kSpan = 512;  // codes of a row that are widened at a time, for one panel: a few percent of its work

template <int M>
void tile(const QgemmArgs* args, int64_t row, int64_t p) {
  const int64_t kp = args->kp;
  const int8_t* panel = args->w + p * S8::bytes(kp);
  const int8_t* q = args->q + row * args->ldq;
  alignas(32) int32_t evens[M][kSpan / 4], odds[M][kSpan / 4];
  __m256i acc[M][2];
  for (int i = 0; i < M; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < kp; k += kSpan) {
    const int64_t groups = (kp - k < kSpan ? kp - k : kSpan) / 4;
    for (int i = 0; i < M; ++i) {
      for (int64_t g = 0; g < groups; g += 8) {
        const __m256i codes = _mm256_loadu_si256((const __m256i*)(q + i * args->ldq + k + 4 * g));
        _mm256_store_si256((__m256i*)(evens[i] + g), even(codes));
        _mm256_store_si256((__m256i*)(odds[i] + g), odd(codes));
      }
    }
    for (int64_t g = 0; g < groups; ++g, panel += 64) {
      const __m256i low = _mm256_loadu_si256((const __m256i*)panel), high = _mm256_loadu_si256((const __m256i*)(panel + 32));
      const __m256i low_even = even(low), high_even = even(high), low_odd = odd(low), high_odd = odd(high);
      for (int i = 0; i < M; ++i) {
        const __m256i x = _mm256_set1_epi32(evens[i][g]), y = _mm256_set1_epi32(odds[i][g]);
        acc[i][0] = add_pairs(add_pairs(acc[i][0], x, low_even), y, low_odd);
        acc[i][1] = add_pairs(add_pairs(acc[i][1], x, high_even), y, high_odd);
      }
    }
  }
  panel = args->w + p * S8::bytes(kp);
  const float* ws = S8::scales(panel, kp);
  for (int i = 0; i < M; ++i) {
    char* out = (char*)args->out.data + (row + i) * args->out.stride * element_size(args->out.dtype);
    for (int h = 0; h < 2; ++h) {
      const int64_t column = p * 16 + 8 * h;
      if (args->out.dtype == kS32) {  // as the bits of floats, which a store does not look at
        store8(out, kF32, column, args->out.n - column, _mm256_castsi256_ps(acc[i][h]));
        continue;
      }
      __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[i][h]), _mm256_set1_ps(args->scale[row + i]));
      if (args->exact) y = _mm256_add_ps(y, _mm256_loadu_ps(args->exact + (p * args->m + row + i) * 16 + 8 * h));
      y = _mm256_mul_ps(y, _mm256_loadu_ps(ws + 8 * h));
      if (args->out.bias) y = _mm256_add_ps(y, _mm256_loadu_ps(args->out.bias + column));
      store8(out, args->out.dtype, column, args->out.n - column, y);
    }
  }
}

}  // namespace

void qgemm_s8s8s32_4x16x4_avx2(const QgemmArgs* args) {
  for (int64_t p = 0; p < args->panels; ++p) {
    int64_t i = 0;
    for (; i + 4 <= args->m; i += 4) tile<4>(args, i, p);
    for (; i < args->m; ++i) tile<1>(args, i, p);
  }
}

}  // namespace lowbit
