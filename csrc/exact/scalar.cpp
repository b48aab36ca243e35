#include "common/types.h"

namespace lowbit {

void exact_s8_1x16_scalar(const ExactRows* rows, int64_t m, const int8_t* panel, float* table, float* out) {
  for (int64_t c = 0; c < rows->used; ++c) {
    const int64_t k = rows->columns[c];
    for (int j = 0; j < 16; ++j) table[c * 16 + j] = panel[k / 4 * 64 + 4 * j + k % 4];
  }
  for (int64_t i = 0; i < m; ++i) {
    const float* value = rows->value + i * rows->capacity;
    float acc[16] = {};
    for (int64_t e = 0; e < rows->count[i]; ++e) {
      const float* w = table + 16 * (rows->position ? rows->position[i * rows->capacity + e] : e);
      for (int j = 0; j < 16; ++j) acc[j] += value[e] * w[j];
    }
    for (int j = 0; j < 16; ++j) out[i * 16 + j] = acc[j];
  }
}

}  // namespace lowbit
