// SDOT: a lane of four codes of x against four codes of each of four output rows.
#include <arm_neon.h>

#include "common/convert.h"
#include "common/types.h"

namespace lowbit {
namespace {

template <int M>
void tile(const QgemmArgs* args, int64_t row, int64_t p) {
  const int64_t kp = args->kp;
  const int8_t* panel = args->w + p * S8::bytes(kp);
  const int8_t* q = args->q + row * args->ldq;
  int32x4_t acc[M][4];
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < 4; ++j) acc[i][j] = vdupq_n_s32(0);
  }
  for (int64_t k = 0; k < kp; k += 16) {
    int8x16_t x[M];
    for (int i = 0; i < M; ++i) x[i] = vld1q_s8(q + i * args->ldq + k);
    for (int j = 0; j < 4; ++j) {
      const int8_t* w = panel + k * 16 + j * 16;
      for (int i = 0; i < M; ++i) {
        acc[i][j] = vdotq_laneq_s32(acc[i][j], vld1q_s8(w), x[i], 0);
        acc[i][j] = vdotq_laneq_s32(acc[i][j], vld1q_s8(w + 64), x[i], 1);
        acc[i][j] = vdotq_laneq_s32(acc[i][j], vld1q_s8(w + 128), x[i], 2);
        acc[i][j] = vdotq_laneq_s32(acc[i][j], vld1q_s8(w + 192), x[i], 3);
      }
    }
  }
  const float* ws = S8::scales(panel, kp);
  const int64_t left = args->out.n - p * 16;
  for (int i = 0; i < M; ++i) {
    char* out = (char*)args->out.data + (row + i) * args->out.stride * element_size(args->out.dtype);
    if (args->out.dtype == kS32) {
      int32_t sums[16];
      for (int j = 0; j < 4; ++j) vst1q_s32(sums + 4 * j, acc[i][j]);
      for (int64_t j = 0; j < 16 && j < left; ++j) ((int32_t*)out)[p * 16 + j] = sums[j];
      continue;
    }
    float y[16];
    for (int j = 0; j < 4; ++j) {
      float32x4_t v = vmulq_n_f32(vcvtq_f32_s32(acc[i][j]), args->scale[row + i]);
      if (args->exact) v = vaddq_f32(v, vld1q_f32(args->exact + (p * args->m + row + i) * 16 + 4 * j));
      v = vmulq_f32(v, vld1q_f32(ws + 4 * j));
      if (args->out.bias) v = vaddq_f32(v, vld1q_f32(args->out.bias + p * 16 + 4 * j));
      vst1q_f32(y + 4 * j, v);
    }
    for (int64_t j = 0; j < 16 && j < left; ++j) store_float(out, args->out.dtype, p * 16 + j, y[j]);
  }
}

}  // namespace

void qgemm_s8s8s32_4x16x4_neon(const QgemmArgs* args) {
  for (int64_t p = 0; p < args->panels; ++p) {
    int64_t i = 0;
    for (; i + 4 <= args->m; i += 4) tile<4>(args, i, p);
    for (; i < args->m; ++i) tile<1>(args, i, p);
  }
}

}  // namespace lowbit
