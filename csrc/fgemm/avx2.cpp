#include "common/avx2.h"
#include "fgemm/panel.h"

namespace lowbit {
namespace {

// Lane j of the 8 holds four codes; `up` moves one of them to the top, and the arithmetic shift back extends its sign.
inline __m256 code_s8(__m256i lanes, int byte) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_sll_epi32(lanes, _mm_cvtsi32_si128(24 - 8 * byte)), 24));
}

void unpack_s8(const int8_t* panel, int64_t kp, float* w) {
  const float* scale = panel_scales(panel, kp);
  for (int h = 0; h < 2; ++h) {
    const __m256 s = _mm256_loadu_ps(scale + 8 * h);
    for (int64_t k = 0; k < kp; k += 4) {
      const __m256i lanes = _mm256_loadu_si256((const __m256i*)(panel + k * 16 + 32 * h));
      for (int b = 0; b < 4; ++b) _mm256_store_ps(w + (k + b) * 16 + 8 * h, _mm256_mul_ps(code_s8(lanes, b), s));
    }
  }
}

void unpack_s4(const int8_t* panel, int64_t kp, int64_t group, float* w) {
  const float* scales = panel_group_scales(panel, kp);
  const __m256i nibble = _mm256_set1_epi32(15), eight = _mm256_set1_epi32(8);
  for (int h = 0; h < 2; ++h) {
    for (int64_t k = 0; k < kp; k += 8) {
      const __m256 s = _mm256_loadu_ps(scales + k / group * 16 + 8 * h);
      const __m256i lanes = _mm256_loadu_si256((const __m256i*)(panel + k * 8 + 32 * h));
      for (int b = 0; b < 8; ++b) {
        const int shift = 8 * (b % 4) + 4 * (b / 4);
        const __m256i code = _mm256_and_si256(_mm256_srl_epi32(lanes, _mm_cvtsi32_si128(shift)), nibble);
        _mm256_store_ps(w + (k + b) * 16 + 8 * h, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(code, eight)), s));
      }
    }
  }
}

template <int M>
void tile(const FgemmArgs* args, const float* w, int64_t row, int64_t p) {
  const float* x = (const float*)args->x + row * args->ldx;
  __m256 acc[M][2];
  for (int i = 0; i < M; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  for (int64_t k = 0; k < args->kp; ++k) {
    const __m256 low = _mm256_load_ps(w + k * 16), high = _mm256_load_ps(w + k * 16 + 8);
    for (int i = 0; i < M; ++i) {
      const __m256 a = _mm256_broadcast_ss(x + i * args->ldx + k);
      acc[i][0] = _mm256_fmadd_ps(a, low, acc[i][0]);
      acc[i][1] = _mm256_fmadd_ps(a, high, acc[i][1]);
    }
  }
  for (int i = 0; i < M; ++i) {
    char* out = (char*)args->out.data + (row + i) * args->out.stride * element_size(args->out.dtype);
    for (int h = 0; h < 2; ++h) {
      const int64_t n = p * 16 + 8 * h;
      const __m256 y = args->out.bias ? _mm256_add_ps(acc[i][h], _mm256_loadu_ps(args->out.bias + n)) : acc[i][h];
      store8(out, args->out.dtype, n, args->out.n - n, y);
    }
  }
}

void product(const FgemmArgs* args) {
  float* w = (float*)args->scratch;
  for (int64_t p = 0; p < args->panels; ++p) {
    const int8_t* panel = args->w + p * panel_bytes(args->kp, args->group);
    if (args->group) unpack_s4(panel, args->kp, args->group, w);
    else unpack_s8(panel, args->kp, w);
    if (args->rotate) rotate_panel(w, args->kp);
    int64_t i = 0;
    for (; i + 6 <= args->m; i += 6) tile<6>(args, w, i, p);
    for (; i + 2 <= args->m; i += 2) tile<2>(args, w, i, p);
    for (; i < args->m; ++i) tile<1>(args, w, i, p);
  }
}

}  // namespace

void fgemm_f32s8_6x16_avx2(const FgemmArgs* args) { product(args); }
void fgemm_f32s4_6x16_avx2(const FgemmArgs* args) { product(args); }

}  // namespace lowbit
