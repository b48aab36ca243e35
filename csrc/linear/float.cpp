// linear_fs8 and linear_fs4: float rows, integer weights.
#include <string.h>

#include "common/kernels.h"
#include "linear/linear.h"
#include "linear/parallel.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

struct Operand {
  const void* data;
  int64_t stride;
};

const char* row_of(const Matrix& x, int64_t row) { return (const char*)x.data + row * x.stride * element_size(x.dtype); }

// Rows padded with zeros to kp. bfloat16 kernels read x in place where its rows are whole.
Operand operand(const Matrix& x, int64_t first, int64_t m, int64_t kp, bool bf16, int64_t tasks) {
  if (bf16 && x.columns == kp && m % kPanel == 0) return {row_of(x, first), x.stride};
  const int64_t stride = kp % 512 ? kp : kp + 32;  // see reserve() in linear/prepare.cpp
  const int64_t bytes = bf16 ? 2 : 4;
  char* memory = scratch<char>(kFloatSlot, round_up(m, kPanel) * stride * bytes);
  const RowKernels& kernels = *(const RowKernels*)choose(rows, 0, kF32).function;
  const int64_t workers = tasks == 1 ? 1 : tasks_for(m * kp * 2);
  parallel(workers, [&](int64_t task) {
    const Range range = share(m, workers, task, 1);
    for (int64_t i = range.begin; i < range.end; ++i) {
      char* to = memory + i * stride * bytes;
      if (bf16) {
        memcpy(to, row_of(x, first + i), (size_t)x.columns * 2);
        memset(to + x.columns * 2, 0, (size_t)(kp - x.columns) * 2);
      } else {
        kernels.load(row_of(x, first + i), x.dtype, x.columns, kp, (float*)to);
      }
    }
  });
  return {memory, stride};
}

int64_t padded_k(int64_t k, int64_t group) { return round_up(k, group > kBlock ? group : kBlock); }

}  // namespace

void linear_float(const Linear& op, int64_t group) {
  const int64_t rows = op.x.rows, kp = padded_k(op.x.columns, group), panels = round_up(op.n, kPanel) / kPanel;
  if (rows == 0 || op.n == 0) return;
  const Kernel& kernel = choose(group ? fgemm_s4 : fgemm_s8, rows, op.x.dtype);
  const float* bias = widened_bias(op);
  const int64_t bytes = panel_bytes(kp, group), tasks = tasks_for(panels * (bytes + bytes / 4 * rows)), step = 512;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t m = rows - first < step ? rows - first : step;
    const Operand x = operand(op.x, first, m, kp, kernel.needs == kBF16Only, tasks);
    parallel(tasks, [&](int64_t task) {
      const Range range = share(panels, tasks, task, 2);
      if (range.begin == range.end) return;
      char* out = (char*)op.out + (first * op.n + range.begin * kPanel) * element_size(op.out_dtype);
      const FgemmArgs args = {x.data, x.stride, m, kp, op.w + range.begin * bytes, range.end - range.begin, group, false,
                              scratch<char>(kPanelSlot, fgemm_scratch(kp)),
                              {out, op.n, op.n - range.begin * kPanel, op.out_dtype, bias ? bias + range.begin * kPanel : nullptr}};
      ((FgemmFn)kernel.function)(&args);
    });
  }
}

}  // namespace lowbit
