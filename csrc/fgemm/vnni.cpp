#include "common/avx512.h"
#include "fgemm/panel.h"

namespace lowbit {
namespace {

// The 16 values of an int4 code, looked up by the low four bits of a lane.
inline __m512 values_s4() { return _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7); }
inline __m512 code_s4(__m512i lanes, int b) {
  return _mm512_permutexvar_ps(_mm512_srli_epi32(lanes, 8 * (b % 4) + 4 * (b / 4)), values_s4());
}

void unpack_s8(const int8_t* panel, int64_t kp, float* w) {
  const __m512 scale = _mm512_loadu_ps(panel_scales(panel, kp));
  for (int64_t k = 0; k < kp; k += 4) {
    const __m512i lanes = _mm512_loadu_si512(panel + k * 16);
    for (int b = 0; b < 4; ++b) {
      const __m512i code = _mm512_srai_epi32(_mm512_slli_epi32(lanes, 24 - 8 * b), 24);
      _mm512_store_ps(w + (k + b) * 16, _mm512_mul_ps(_mm512_cvtepi32_ps(code), scale));
    }
  }
}

void unpack_s4(const int8_t* panel, int64_t kp, int64_t group, float* w) {
  const float* scales = panel_group_scales(panel, kp);
  for (int64_t k = 0; k < kp; k += 8) {
    const __m512 scale = _mm512_loadu_ps(scales + k / group * 16);
    const __m512i lanes = _mm512_loadu_si512(panel + k * 8);
    for (int b = 0; b < 8; ++b) _mm512_store_ps(w + (k + b) * 16, _mm512_mul_ps(code_s4(lanes, b), scale));
  }
}

inline void finish(const FgemmArgs* args, int64_t row, int64_t p, __m512 y) {
  const int64_t n = p * 16;
  if (args->out.bias) y = _mm512_add_ps(y, _mm512_loadu_ps(args->out.bias + n));
  char* out = (char*)args->out.data + row * args->out.stride * element_size(args->out.dtype);
  store16(out, args->out.dtype, n, first(args->out.n - n), y);
}

template <int M>
void tile(const FgemmArgs* args, const float* w, int64_t row, int64_t p) {
  const float* x = (const float*)args->x + row * args->ldx;
  __m512 acc[M];
  for (int i = 0; i < M; ++i) acc[i] = _mm512_setzero_ps();
  for (int64_t k = 0; k < args->kp; ++k) {
    const __m512 b = _mm512_load_ps(w + k * 16);
    for (int i = 0; i < M; ++i) acc[i] = _mm512_fmadd_ps(_mm512_set1_ps(x[i * args->ldx + k]), b, acc[i]);
  }
  for (int i = 0; i < M; ++i) finish(args, row + i, p, acc[i]);
}

void product(const FgemmArgs* args) {
  float* w = (float*)args->scratch;
  for (int64_t p = 0; p < args->panels; ++p) {
    const int8_t* panel = args->w + p * panel_bytes(args->kp, args->group);
    if (args->group) unpack_s4(panel, args->kp, args->group, w);
    else unpack_s8(panel, args->kp, w);
    if (args->rotate) rotate_panel(w, args->kp);
    int64_t i = 0;
    for (; i + 12 <= args->m; i += 12) tile<12>(args, w, i, p);
    for (; i + 4 <= args->m; i += 4) tile<4>(args, w, i, p);
    for (; i < args->m; ++i) tile<1>(args, w, i, p);
  }
}

// Few rows: codes become floats in registers. A 16-byte load is 4 output rows by 4 k, so acc[i][s] holds, for output rows
// 4s..4s+3, four partial sums each; they are added at the end.
template <int M>
void gemv_s8(const FgemmArgs* args, int64_t row, int64_t p) {
  const int64_t kp = args->kp;
  const int8_t* panel = args->w + p * panel_bytes_s8(kp);
  const float* x = (const float*)args->x + row * args->ldx;
  __m512 acc[M][4];
  for (int i = 0; i < M; ++i) {
    for (int s = 0; s < 4; ++s) acc[i][s] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < kp; k += 4) {
    __m512 w[4];
    for (int s = 0; s < 4; ++s) w[s] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(panel + k * 16 + 16 * s))));
    _mm_prefetch((const char*)panel + k * 16 + 2048, _MM_HINT_T0);
    for (int i = 0; i < M; ++i) {
      const __m512 a = _mm512_broadcast_f32x4(_mm_loadu_ps(x + i * args->ldx + k));
      for (int s = 0; s < 4; ++s) acc[i][s] = _mm512_fmadd_ps(a, w[s], acc[i][s]);
    }
  }
  const __m512 scale = _mm512_loadu_ps(panel_scales(panel, kp));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int i = 0; i < M; ++i) {
    const __m512 a = _mm512_unpacklo_ps(acc[i][0], acc[i][1]), b = _mm512_unpackhi_ps(acc[i][0], acc[i][1]);
    const __m512 c = _mm512_unpacklo_ps(acc[i][2], acc[i][3]), d = _mm512_unpackhi_ps(acc[i][2], acc[i][3]);
    const __m512 low = _mm512_add_ps(a, b), high = _mm512_add_ps(c, d);  // lane: (s0 s1 s0 s1), (s2 s3 s2 s3)
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xee));
    finish(args, row + i, p, _mm512_mul_ps(_mm512_permutexvar_ps(order, sums), scale));
  }
}

template <int M>
void gemv_s4(const FgemmArgs* args, int64_t row, int64_t p) {
  const int64_t kp = args->kp, group = args->group;
  const int8_t* panel = args->w + p * panel_bytes_s4(kp, group);
  const float* scales = panel_group_scales(panel, kp);
  const float* x = (const float*)args->x + row * args->ldx;
  __m512 total[M];
  for (int i = 0; i < M; ++i) total[i] = _mm512_setzero_ps();
  for (int64_t start = 0; start < kp; start += group, scales += 16) {
    __m512 acc[M][4];
    for (int i = 0; i < M; ++i) {
      for (int s = 0; s < 4; ++s) acc[i][s] = _mm512_setzero_ps();
    }
    for (int64_t k = start; k < start + group; k += 8) {
      const __m512i lanes = _mm512_loadu_si512(panel + k * 8);
      _mm_prefetch((const char*)panel + k * 8 + 2048, _MM_HINT_T0);
      for (int b = 0; b < 8; ++b) {
        const __m512 w = code_s4(lanes, b);
        for (int i = 0; i < M; ++i) acc[i][b % 4] = _mm512_fmadd_ps(_mm512_set1_ps(x[i * args->ldx + k + b]), w, acc[i][b % 4]);
      }
    }
    const __m512 scale = _mm512_loadu_ps(scales);
    for (int i = 0; i < M; ++i) {
      const __m512 sum = _mm512_add_ps(_mm512_add_ps(acc[i][0], acc[i][1]), _mm512_add_ps(acc[i][2], acc[i][3]));
      total[i] = _mm512_fmadd_ps(sum, scale, total[i]);
    }
  }
  for (int i = 0; i < M; ++i) finish(args, row + i, p, total[i]);
}

template <int M>
void gemv(const FgemmArgs* args, int64_t row, int64_t p) {
  if (args->group) gemv_s4<M>(args, row, p);
  else gemv_s8<M>(args, row, p);
}

void few_rows(const FgemmArgs* args) {
  if (args->rotate) return product(args);
  for (int64_t p = 0; p < args->panels; ++p) {
    int64_t i = 0;
    for (; i + 4 <= args->m; i += 4) gemv<4>(args, i, p);
    switch (args->m - i) {
      case 1: gemv<1>(args, i, p); break;
      case 2: gemv<2>(args, i, p); break;
      case 3: gemv<3>(args, i, p); break;
    }
  }
}

}  // namespace

void fgemv_f32s8_4x16_vnni(const FgemmArgs* args) { few_rows(args); }
void fgemv_f32s4_4x16_vnni(const FgemmArgs* args) { few_rows(args); }
void fgemm_f32s8_12x16_vnni(const FgemmArgs* args) { product(args); }
void fgemm_f32s4_12x16_vnni(const FgemmArgs* args) { product(args); }

}  // namespace lowbit
