// Codes and their scales to the panels of docs/arithmetic.md; those on lines are in pack_lines.cpp.
#include <string.h>

#include "linear/linear.h"
#include "linear/parallel.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

// One row of a panel, whose tail is zero: `codes` are padded to kp.
template <class F>
void pack_row(const int8_t* codes, const float* scale, int64_t k, int64_t group, int64_t r, int8_t* panel) {
  const int64_t kp = F::padded(k, group);
  for (int64_t i = 0; i < kp / F::kCodes; ++i) {
    const uint32_t word = F::word(codes + i * F::kCodes);
    memcpy(panel + i * kLine + r * 4, &word, 4);
  }
  if (F::kSums) {
    int32_t sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += codes[i];
    ((int32_t*)F::sums(panel, kp))[r] = sum;
  }
  for (int64_t g = 0; scale && g < F::spans(k, group); ++g) ((float*)F::scales(panel, kp))[g * kPanel + r] = scale[g];
}

}  // namespace

template <class F>
void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out) {
  const int64_t kp = F::padded(k, group), bytes = F::bytes(kp, group), panels = round_up(n, kPanel) / kPanel, tasks = tasks_for(n * k);
  parallel(tasks, [&](int64_t task) {
    int8_t* codes = scratch<int8_t>(kCodesSlot, kp);
    memset(codes, 0, (size_t)kp);
    const Range range = share(panels, tasks, task, 1);
    for (int64_t p = range.begin; p < range.end; ++p) {
      int8_t* panel = out + p * bytes;
      memset(panel + F::code_bytes(kp), 0, (size_t)(bytes - F::code_bytes(kp)));
      for (int64_t r = 0; r < kPanel; ++r) {
        const int64_t row = p * kPanel + r;
        if (row < n) memcpy(codes, q + row * k, (size_t)k);
        else memset(codes, 0, (size_t)kp);
        pack_row<F>(codes, row < n ? scale + row * F::spans(k, group) : nullptr, k, group, r, panel);
      }
    }
  });
}

template <class F>
bool rows_end(const int8_t* w, int64_t n, int64_t k, int64_t group) {
  const int64_t kp = F::padded(k, group), last = (n - 1) / kPanel;
  const float* scales = F::scales(w + last * F::bytes(kp, group), kp);
  for (int64_t r = n - last * kPanel; r < kPanel; ++r) {
    for (int64_t g = 0; g < F::spans(kp, group); ++g) {
      if (scales[g * kPanel + r] != 0) return false;
    }
  }
  return true;
}

template <class F>
bool columns_end(const int8_t* w, int64_t k, int64_t group) {
  const int64_t kp = F::padded(k, group);
  for (int64_t i = k; i < kp; ++i) {
    for (int64_t r = 0; r < kPanel; ++r) {
      uint32_t word;
      memcpy(&word, w + i / F::kCodes * kLine + r * 4, 4);
      if (F::code(word, (int)(i % F::kCodes)) != 0) return false;
    }
  }
  return true;
}

#define INSTANCES(name, Format)                                                                                            \
  template void pack<Format>(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out);       \
  template bool rows_end<Format>(const int8_t* w, int64_t n, int64_t k, int64_t group);                                    \
  template bool columns_end<Format>(const int8_t* w, int64_t k, int64_t group);
LOWBIT_FORMATS(INSTANCES)
template bool rows_end<D8>(const int8_t* w, int64_t n, int64_t k, int64_t group);
template bool columns_end<D8>(const int8_t* w, int64_t k, int64_t group);

}  // namespace lowbit
