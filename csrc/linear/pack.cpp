// Codes to the panels of docs/arithmetic.md.
#include <string.h>

#include "linear/linear.h"
#include "linear/parallel.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

// Columns of 4 bytes, 64 bytes apart: those of one output row in a panel.
void scatter_s8(const int8_t* q, int64_t kp, int8_t* out) {
  for (int64_t g = 0; g < kp / 4; ++g) memcpy(out + g * 64, q + g * 4, 4);
}

// A code plus 8 is its low nibble with the sign bit turned over; the next k-group goes to the high nibbles.
void scatter_s4(const int8_t* q, int64_t kp, int8_t* out) {
  for (int64_t j = 0; j < kp / 8; ++j) {
    uint32_t even, odd;
    memcpy(&even, q + j * 8, 4);
    memcpy(&odd, q + j * 8 + 4, 4);
    const uint32_t bytes = ((even & 0x0f0f0f0fu) | (odd & 0x0f0f0f0fu) << 4) ^ 0x88888888u;
    memcpy(out + j * 64, &bytes, 4);
  }
}

}  // namespace

void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out) {
  const int64_t kp = round_up(k, group > kBlock ? group : kBlock), panels = round_up(n, kPanel) / kPanel;
  const int64_t bytes = panel_bytes(kp, group), groups = group ? (k + group - 1) / group : 1, tasks = tasks_for(n * k);
  parallel(tasks, [&](int64_t task) {
    int8_t* padded = scratch<int8_t>(kCodesSlot, kp);
    memset(padded, 0, (size_t)kp);
    const Range range = share(panels, tasks, task, 1);
    for (int64_t p = range.begin; p < range.end; ++p) {
      int8_t* panel = out + p * bytes;
      int8_t* tail = panel + (group ? kPanel * kp / 2 : kPanel * kp);
      memset(tail, 0, (size_t)(panel + bytes - tail));
      for (int64_t r = 0; r < kPanel; ++r) {
        const int64_t row = p * kPanel + r;
        if (row < n) memcpy(padded, q + row * k, (size_t)k);
        else memset(padded, 0, (size_t)kp);
        if (group) {
          scatter_s4(padded, kp, panel + r * 4);
          for (int64_t g = 0; g < groups && row < n; ++g) ((float*)tail)[g * kPanel + r] = scale[row * groups + g];
        } else {
          scatter_s8(padded, kp, panel + r * 4);
          int32_t sum = 0;
          for (int64_t i = 0; i < k; ++i) sum += padded[i];
          ((int32_t*)tail)[r] = sum;
          ((float*)tail)[kPanel + r] = row < n ? scale[row] : 0;
        }
      }
    }
  });
}

}  // namespace lowbit
