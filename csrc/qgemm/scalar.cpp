#include "common/convert.h"
#include "common/types.h"

namespace lowbit {

void qgemm_s8s8s32_1x16x4_scalar(const QgemmArgs* args) {
  const int64_t kp = args->kp;
  for (int64_t p = 0; p < args->panels; ++p) {
    const int8_t* panel = args->w + p * S8::bytes(kp);
    const float* ws = S8::scales(panel, kp);
    const int64_t n = args->out.n - p * kPanel;
    for (int64_t i = 0; i < args->m; ++i) {
      const int8_t* q = args->q + i * args->ldq;
      int32_t acc[16] = {};
      for (int64_t g = 0; g < kp / 4; ++g) {
        const int8_t* w = panel + g * 64;
        const int q0 = q[4 * g], q1 = q[4 * g + 1], q2 = q[4 * g + 2], q3 = q[4 * g + 3];
        for (int j = 0; j < 16; ++j) acc[j] += q0 * w[4 * j] + q1 * w[4 * j + 1] + q2 * w[4 * j + 2] + q3 * w[4 * j + 3];
      }
      char* row = (char*)args->out.data + i * args->out.stride * element_size(args->out.dtype);
      for (int j = 0; j < 16 && j < n; ++j) {
        if (args->out.dtype == kS32) {
          ((int32_t*)row)[p * 16 + j] = acc[j];
          continue;
        }
        float y = (float)acc[j] * args->scale[i];
        if (args->exact) y += args->exact[(p * args->m + i) * 16 + j];
        y *= ws[j];
        if (args->out.bias) y += args->out.bias[p * 16 + j];
        store_float(row, args->out.dtype, p * 16 + j, y);
      }
    }
  }
}

}  // namespace lowbit
