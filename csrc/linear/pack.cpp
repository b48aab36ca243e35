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

int64_t padded(int64_t k, int64_t group) { return round_up(k, group > kBlock ? group : kBlock); }

}  // namespace

bool rows_end(const int8_t* w, int64_t n, int64_t k, int64_t group) {
  const int64_t kp = padded(k, group), last = (n - 1) / kPanel, groups = group ? kp / group : 1;
  const int8_t* panel = w + last * panel_bytes(kp, group);
  const float* scales = group ? panel_group_scales(panel, kp) : panel_scales(panel, kp);
  for (int64_t r = n - last * kPanel; r < kPanel; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      if (scales[g * kPanel + r] != 0) return false;
    }
  }
  return true;
}

bool columns_end(const int8_t* w, int64_t k, int64_t group) {
  const int64_t kp = padded(k, group);
  for (int64_t i = k; i < kp; ++i) {
    for (int64_t r = 0; r < kPanel; ++r) {
      const int8_t code = group ? (w[i / 8 * 64 + r * 4 + i % 4] >> (i % 8 / 4 * 4) & 15) - 8 : w[i / 4 * 64 + r * 4 + i % 4];
      if (code != 0) return false;
    }
  }
  return true;
}

void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out) {
  const int64_t kp = padded(k, group), panels = round_up(n, kPanel) / kPanel;
  const int64_t bytes = panel_bytes(kp, group), groups = group ? (k + group - 1) / group : 1, tasks = tasks_for(n * k);
  parallel(tasks, [&](int64_t task) {
    int8_t* codes = scratch<int8_t>(kCodesSlot, kp);
    memset(codes, 0, (size_t)kp);
    const Range range = share(panels, tasks, task, 1);
    for (int64_t p = range.begin; p < range.end; ++p) {
      int8_t* panel = out + p * bytes;
      int8_t* tail = panel + (group ? kPanel * kp / 2 : kPanel * kp);
      memset(tail, 0, (size_t)(panel + bytes - tail));
      for (int64_t r = 0; r < kPanel; ++r) {
        const int64_t row = p * kPanel + r;
        if (row < n) memcpy(codes, q + row * k, (size_t)k);
        else memset(codes, 0, (size_t)kp);
        if (group) {
          scatter_s4(codes, kp, panel + r * 4);
          for (int64_t g = 0; g < groups && row < n; ++g) ((float*)tail)[g * kPanel + r] = scale[row * groups + g];
        } else {
          scatter_s8(codes, kp, panel + r * 4);
          int32_t sum = 0;
          for (int64_t i = 0; i < k; ++i) sum += codes[i];
          ((int32_t*)tail)[r] = sum;
          ((float*)tail)[kPanel + r] = row < n ? scale[row] : 0;
        }
      }
    }
  });
}

}  // namespace lowbit
