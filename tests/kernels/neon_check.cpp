// Compares every qgemm kernel of this build with the scalar one; run under an emulator by test_neon.py.
#include <stdio.h>
#include <string.h>

#include "common/kernels.h"

using namespace lowbit;

static int8_t q[64 * 1024], w[1 << 18];
static float scale[64], offset[8 * 64 * 16], bias[128], expected[64 * 128], got[64 * 128];
static uint32_t state = 1;

static uint32_t next() { return state = state * 1664525u + 1013904223u; }

static void multiply(const Kernel& kernel, int64_t m, int64_t kp, int64_t panels, int64_t n, float* out) {
  const QgemmArgs args = {q, kp, m, kp, scale, w, panels, offset, nullptr, {out, n, n, kF32, bias}};
  function_of<qgemm>(kernel)(&args);
}

int main() {
  if (!(detect_isa() & kNeon)) return printf("no dot product here\n"), 2;
  int compared = 0;
  for (int64_t m = 1; m <= 13; ++m) {
    for (int64_t kp = 64; kp <= 640; kp += 192) {
      const int64_t n = 5 + 7 * m, panels = (n + 15) / 16, bytes = S8::bytes(kp);
      for (int64_t i = 0; i < m * kp; ++i) q[i] = m == 1 ? 127 : (int8_t)((int)(next() >> 8) % 255 - 127);
      for (int64_t p = 0; p < panels; ++p) {
        for (int64_t i = 0; i < 16 * kp; ++i) w[p * bytes + i] = m == 1 ? -127 : (int8_t)((int)(next() >> 8) % 255 - 127);
        for (int i = 0; i < 16; ++i) ((float*)S8::scales(w + p * bytes, kp))[i] = 0.001f * (float)(i + 1);
      }
      for (float& x : scale) x = (float)(next() >> 20) * 0.01f;
      for (float& x : offset) x = (float)(next() >> 20);
      for (float& x : bias) x = (float)(next() >> 20);
      multiply(select_kernel(qgemm, kScalar, m, kF32), m, kp, panels, n, expected);
      for (int64_t i = 0; i < kernel_count(); ++i) {
        const Kernel& kernel = kernel_at(i);
        if (kernel.family != qgemm || kernel.isa == kScalar) continue;
        multiply(kernel, m, kp, panels, n, got);
        if (memcmp(got, expected, (size_t)(m * n) * 4) != 0) return printf("%s differs: m %d kp %d\n", kernel.name, (int)m, (int)kp), 1;
        ++compared;
      }
    }
  }
  printf("%d products equal\n", compared);
  return compared == 0;
}
