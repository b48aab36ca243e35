#include "common/convert.h"
#include "fgemm/panel.h"

namespace lowbit {
namespace {

void unpack_s8(const int8_t* panel, int64_t kp, float* w) {
  const float* scale = panel_scales(panel, kp);
  for (int64_t k = 0; k < kp; ++k) {
    for (int j = 0; j < 16; ++j) w[k * 16 + j] = panel[k / 4 * 64 + 4 * j + k % 4] * scale[j];
  }
}

void unpack_s4(const int8_t* panel, int64_t kp, int64_t group, float* w) {
  const float* scales = panel_group_scales(panel, kp);
  for (int64_t k = 0; k < kp; ++k) {
    const float* scale = scales + k / group * 16;
    for (int j = 0; j < 16; ++j) {
      const uint8_t byte = (uint8_t)panel[k / 8 * 64 + 4 * j + k % 4];
      w[k * 16 + j] = (float)((k % 8 < 4 ? byte & 15 : byte >> 4) - 8) * scale[j];
    }
  }
}

template <int M>
void tile(const FgemmArgs* args, const float* w, int64_t row, int64_t p) {
  const float* x = (const float*)args->x + row * args->ldx;
  float acc[M][16] = {};
  for (int64_t k = 0; k < args->kp; ++k) {
    for (int i = 0; i < M; ++i) {
      for (int j = 0; j < 16; ++j) acc[i][j] += x[i * args->ldx + k] * w[k * 16 + j];
    }
  }
  for (int i = 0; i < M; ++i) {
    char* out = (char*)args->out.data + (row + i) * args->out.stride * element_size(args->out.dtype);
    for (int64_t n = p * 16; n < p * 16 + 16 && n < args->out.n; ++n) {
      const float y = acc[i][n - p * 16];
      store_float(out, args->out.dtype, n, args->out.bias ? y + args->out.bias[n] : y);
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
    for (; i + 4 <= args->m; i += 4) tile<4>(args, w, i, p);
    for (; i < args->m; ++i) tile<1>(args, w, i, p);
  }
}

}  // namespace

void fgemm_f32s8_4x16_scalar(const FgemmArgs* args) { product(args); }
void fgemm_f32s4_4x16_scalar(const FgemmArgs* args) { product(args); }

}  // namespace lowbit
