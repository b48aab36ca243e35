// linear_fs8 and its like: float rows, packed weights.
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

// One row into tiles of 16 by 32, padded with zeros to kp.
void tile_row(const char* row, int64_t k, int64_t kp, char* to) {
  constexpr int64_t kLine = 64, kTile = 16 * kLine;
  const int64_t whole = k / 32, rest = k % 32 * 2;
  for (int64_t b = 0; b < whole; ++b) memcpy(to + b * kTile, row + b * kLine, kLine);
  for (int64_t b = whole; b < kp / 32; ++b) memset(to + b * kTile, 0, kLine);
  if (rest) memcpy(to + whole * kTile, row + whole * kLine, (size_t)rest);
}

// The rows as the kernel wants them: float32 padded with zeros to kp, or bfloat16 in tiles.
Operand operand(const Matrix& x, int64_t first, int64_t m, int64_t kp, bool bf16, int64_t tasks) {
  const int64_t stride = bf16 || kp % 512 ? kp : kp + 32;  // see reserve() in linear/prepare.cpp
  const int64_t bytes = bf16 ? 2 : 4;
  char* memory = scratch<char>(kFloatSlot, round_up(m, kPanel) * stride * bytes);
  const RowKernels& kernels = chosen<rows>(0, kF32);
  const int64_t workers = tasks == 1 ? 1 : tasks_for(m * kp * 2);
  parallel(workers, [&](int64_t task) {
    const Range range = share(m, workers, task, 1);
    for (int64_t i = range.begin; i < range.end; ++i) {
      if (bf16) tile_row(row_of(x, first + i), x.columns, kp, memory + (i / 16 * 16 * kp + i % 16 * 32) * 2);
      else kernels.load(row_of(x, first + i), x.dtype, x.columns, kp, (float*)(memory + i * stride * 4));
    }
  });
  return {memory, stride};
}

template <class F>
constexpr Family kFamily = kFamilies;
#define FAMILY(name, Format) \
  template <>                \
  constexpr Family kFamily<Format> = fgemm_##name;
LOWBIT_FORMATS(FAMILY)

}  // namespace

template <class F>
void linear_float(const Linear& op, int64_t group) {
  const int64_t rows = op.x.rows, kp = F::padded(op.x.columns, group), panels = round_up(op.n, kPanel) / kPanel;
  if (rows == 0 || op.n == 0) return;
  const Kernel& kernel = choose(kFamily<F>, rows, op.x.dtype);
  const float* bias = widened_bias(op);
  const int64_t bytes = F::bytes(kp, group), tasks = tasks_for(panels * (bytes + bytes / 4 * rows)), step = 512;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t m = rows - first < step ? rows - first : step;
    const Operand x = operand(op.x, first, m, kp, kernel.needs == kBF16Only, tasks);
    parallel_parts(tasks, panels, 2, parts_for(m), [&](int64_t begin, int64_t end) {
      char* out = (char*)op.out + (first * op.n + begin * kPanel) * element_size(op.out_dtype);
      const FgemmArgs args = {x.data, x.stride, m, kp, op.w + begin * bytes, end - begin, group, false,
                              scratch<char>(kPanelSlot, fgemm_scratch(kp)),
                              {out, op.n, op.n - begin * kPanel, op.out_dtype, bias ? bias + begin * kPanel : nullptr}};
      function_of<kFamily<F>>(kernel)(&args);
    });
  }
}

#define INSTANCE(name, Format) template void linear_float<Format>(const Linear& op, int64_t group);
LOWBIT_FORMATS(INSTANCE)

}  // namespace lowbit
