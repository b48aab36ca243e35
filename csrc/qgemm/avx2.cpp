#include "common/avx2.h"

namespace lowbit {
namespace {

// 4 products a lane: |q| * (w with q's sign) in 16 bits; 2 * 127 * 127 fits, so the saturation of maddubs never cuts.
inline __m256i dot4(__m256i acc, __m256i q, __m256i w) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(w, q));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <int M>
void tile(const QgemmArgs* args, int64_t row, int64_t p) {
  const int64_t kp = args->kp;
  const int8_t* panel = args->w + p * S8::bytes(kp);
  const int8_t* q = args->q + row * args->ldq;
  __m256i acc[M][2];
  for (int i = 0; i < M; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
  for (int64_t g = 0; g < kp / 4; ++g) {
    const __m256i low = _mm256_loadu_si256((const __m256i*)(panel + g * 64));
    const __m256i high = _mm256_loadu_si256((const __m256i*)(panel + g * 64 + 32));
    for (int i = 0; i < M; ++i) {
      const __m256i x = _mm256_set1_epi32(*(const int*)(q + i * args->ldq + 4 * g));
      acc[i][0] = dot4(acc[i][0], x, low);
      acc[i][1] = dot4(acc[i][1], x, high);
    }
  }
  const float* ws = S8::scales(panel, kp);
  for (int i = 0; i < M; ++i) {
    char* out = (char*)args->out.data + (row + i) * args->out.stride * element_size(args->out.dtype);
    for (int h = 0; h < 2; ++h) {
      __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[i][h]), _mm256_set1_ps(args->scale[row + i]));
      if (args->exact) y = _mm256_add_ps(y, _mm256_loadu_ps(args->exact + (p * args->m + row + i) * 16 + 8 * h));
      y = _mm256_mul_ps(y, _mm256_loadu_ps(ws + 8 * h));
      if (args->out.bias) y = _mm256_add_ps(y, _mm256_loadu_ps(args->out.bias + p * 16 + 8 * h));
      store8(out, args->out.dtype, p * 16 + 8 * h, args->out.n - p * 16 - 8 * h, y);
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
