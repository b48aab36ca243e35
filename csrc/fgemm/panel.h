// A packed panel as dequantized floats [kp][16], for the kernels that multiply in float32.
#pragma once
#include "common/types.h"

namespace lowbit {

// Multiply by the block Hadamard matrix along K; it is its own inverse.
static inline void rotate_panel(float* panel, int64_t kp) {
  for (int64_t i = 0; i < kp * 16; ++i) panel[i] *= 0.125f;
  for (int64_t half = 1; half < kBlock; half *= 2) {
    for (int64_t k = 0; k < kp; k += 2 * half) {
      float* low = panel + k * 16;
      float* high = low + half * 16;
      for (int64_t i = 0; i < half * 16; ++i) {
        const float a = low[i], b = high[i];
        low[i] = a + b;
        high[i] = a - b;
      }
    }
  }
}

}  // namespace lowbit
