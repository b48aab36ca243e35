// linear_fs8 and its like: float rows, packed weights.
#include <string.h>

#include "common/kernels.h"
#include "linear/parallel.h"
#include "linear/prepare.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

// Rows as a kernel wants them.
struct Operand {
  const void* data;
  int64_t stride;
  const float* spans;      // of fixed-point numbers
  const uint8_t* special;  // [m]: rows that these cannot hold; null without
};

// One row into tiles of 16 by 32, padded with zeros to kp.
void tile_row(const char* row, int64_t k, int64_t kp, char* to) {
  constexpr int64_t kLine = 64, kTile = 16 * kLine;
  const int64_t whole = k / 32, rest = k % 32 * 2;
  for (int64_t b = 0; b < whole; ++b) memcpy(to + b * kTile, row + b * kLine, kLine);
  for (int64_t b = whole; b < kp / 32; ++b) memset(to + b * kTile, 0, kLine);
  if (rest) memcpy(to + whole * kTile, row + whole * kLine, (size_t)rest);
}

// What is the same for all rows and panels.
struct Product {
  const Linear& op;
  const Kernel& kernel;
  FgemmFn* multiply;
  int64_t kp, group, bytes;  // bytes of a panel
  const float* bias;
};

int64_t stride_of(int64_t kp) { return kp % 512 ? kp : kp + 32; }  // see reserve() in linear/prepare.cpp

// Calls row(i) for each of m rows, in parallel where there is more than one task.
template <class F>
void each_row(int64_t m, int64_t kp, int64_t tasks, const F& row) {
  const int64_t workers = tasks == 1 ? 1 : tasks_for(m * kp * 2);
  parallel(workers, [&](int64_t task) {
    const Range range = share(m, workers, task, 1);
    for (int64_t i = range.begin; i < range.end; ++i) row(i);
  });
}

Operand in_tiles(const Product& product, int64_t first, int64_t m, int64_t tasks) {
  const Matrix& x = product.op.x;
  const int64_t kp = product.kp;
  char* memory = scratch<char>(kFloatSlot, round_up(m, kPanel) * kp * 2);
  each_row(m, kp, tasks, [&](int64_t i) { tile_row(row_of(x, first + i), x.columns, kp, memory + (i / 16 * 16 * kp + i % 16 * 32) * 2); });
  return {memory, kp, nullptr, nullptr};
}

Operand in_floats(const Product& product, int64_t first, int64_t m, int64_t tasks) {
  const Matrix& x = product.op.x;
  const int64_t kp = product.kp, stride = stride_of(kp);
  float* memory = scratch<float>(kFloatSlot, round_up(m, kPanel) * stride);
  const RowKernels& kernels = row_kernels();
  each_row(m, kp, tasks, [&](int64_t i) { kernels.load(row_of(x, first + i), x.dtype, x.columns, kp, memory + i * stride); });
  return {memory, stride, nullptr, nullptr};
}

Operand in_fixed_point(const Product& product, int64_t first, int64_t m, int64_t tasks) {
  const Matrix& x = product.op.x;
  const int64_t kp = product.kp, stride = stride_of(kp), numbers = kp / product.group * 2;
  int16_t* memory = scratch<int16_t>(kCodesSlot, m * stride);
  float* spans = (float*)scratch<char>(kScaleSlot, m * (numbers * 4 + 1));
  uint8_t* special = (uint8_t*)(spans + m * numbers);
  const RowKernels& kernels = row_kernels();
  each_row(m, kp, tasks, [&](int64_t i) {
    float* v = scratch<float>(kRowSlot, kp);
    kernels.load(row_of(x, first + i), x.dtype, x.columns, kp, v);
    special[i] = !kernels.fixed(v, kp, product.group, product.kernel.needs == kBytes, memory + i * stride, spans + i * numbers);
    if (special[i]) memset(spans + i * numbers, 0, (size_t)numbers * 4);
  });
  return {memory, stride, spans, special};
}

Operand operand(const Product& product, int64_t first, int64_t m, int64_t tasks) {
  switch (product.kernel.needs) {
    case kBF16Only: return in_tiles(product, first, m, tasks);
    case kPairs:
    case kBytes: return in_fixed_point(product, first, m, tasks);
    default: return in_floats(product, first, m, tasks);
  }
}

void multiply(const Product& product, FgemmFn* kernel, const Operand& x, int64_t first, int64_t m, int64_t begin, int64_t end) {
  const Linear& op = product.op;
  char* out = (char*)op.out + (first * op.n + begin * kPanel) * element_size(op.out_dtype);
  const FgemmArgs args = {x.data, x.stride, m, product.kp, op.w + begin * product.bytes, end - begin, product.group, false,
                          scratch<char>(kPanelSlot, fgemm_scratch(product.kp)),
                          {out, op.n, op.n - begin * kPanel, op.out_dtype, product.bias ? product.bias + begin * kPanel : nullptr}, x.spans};
  kernel(&args);
}

// Rows that fixed-point numbers cannot hold, one by one as floats.
void repair(const Product& product, const Operand& x, int64_t first, int64_t m, int64_t begin, int64_t end) {
  for (int64_t i = 0; x.special && i < m; ++i) {
    if (!x.special[i]) continue;
    const Matrix& rows = product.op.x;
    float* v = scratch<float>(kRowSlot, product.kp);
    row_kernels().load(row_of(rows, first + i), rows.dtype, rows.columns, product.kp, v);
    const Kernel& kernel = select_kernel(product.kernel.family, active_isa(), INT64_MAX, kF32);
    multiply(product, (FgemmFn*)kernel.function, {v, product.kp, nullptr, nullptr}, first + i, 1, begin, end);
  }
}

void run(const Product& product, int64_t panels) {
  const int64_t rows = product.op.x.rows, tasks = tasks_for(panels * (product.bytes + product.bytes / 4 * rows)), step = 512;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t m = rows - first < step ? rows - first : step;
    const Operand x = operand(product, first, m, tasks);
    parallel_parts(tasks, panels, 2, parts_for(m), [&](int64_t begin, int64_t end) {
      multiply(product, product.multiply, x, first, m, begin, end);
      repair(product, x, first, m, begin, end);
    });
  }
}

template <class F>
constexpr Family kFamily = kFamilies;
#define FAMILY(name, Format) \
  template <>                \
  constexpr Family kFamily<Format> = fgemm_##name;
LOWBIT_FORMATS(FAMILY)
LOWBIT_LINES(FAMILY)
LOWBIT_CODEBOOKS(FAMILY)

}  // namespace

template <class F>
void linear_float(const Linear& op, int64_t group) {
  if (op.x.rows == 0 || op.n == 0) return;
  const int64_t kp = F::padded(op.x.columns, group);
  const Kernel& kernel = choose(kFamily<F>, op.x.rows, op.x.dtype);
  const int64_t span = F::kGrouped ? group : kBlock;  // of x in fixed point
  run({op, kernel, &function_of<kFamily<F>>(kernel), kp, span, F::bytes(kp, group), widened_bias(op)}, round_up(op.n, kPanel) / kPanel);
}

#define INSTANCE(name, Format) template void linear_float<Format>(const Linear& op, int64_t group);
LOWBIT_FORMATS(INSTANCE)
LOWBIT_LINES(INSTANCE)
LOWBIT_CODEBOOKS(INSTANCE)

}  // namespace lowbit
