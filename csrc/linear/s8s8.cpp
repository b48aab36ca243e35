// linear_s8s8: quantize rows, multiply integers, repair rows that int8 cannot hold.
#include <string.h>

#include "common/convert.h"
#include "common/kernels.h"
#include "linear/parallel.h"
#include "linear/prepare.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

struct Job {
  const Linear& op;
  Treatment treatment;
  Columns columns;
  int64_t kp, panels;
  const float* bias;
  QgemmFn* product;
  ExactFn* exact;
  Layout layout;

  Output output(int64_t row, int64_t panel) const {
    char* data = (char*)op.out + (row * op.n + panel * kPanel) * element_size(op.out_dtype);
    return {data, op.n, op.n - panel * kPanel, op.out_dtype, bias ? bias + panel * kPanel : nullptr};
  }
  const int8_t* panel(int64_t index) const { return op.w + index * S8::bytes(kp); }
};

// A kernel that takes codes in tiles can take exact elements in tiles too, as a dense product over the columns used. One column
// of all rows costs a tile product about as much as 1/24 of an element of each row costs the vector units (measured).
ExactTiles exact_tiles(const Job& job, const Prepared& block) {
  if (!job.layout.tiled || block.exact.used == 0) return {};
  int64_t elements = 0;
  for (int64_t i = 0; i < block.m; ++i) elements += block.exact.count[i];
  const bool dense = block.exact.used * parts_of(dtype_read(job.op.x)) * block.m < 24 * elements;
  return dense ? tile_exact(block, dtype_read(job.op.x)) : ExactTiles{};
}

// Rows of the block against panels begin..end; the block starts at row `first` of x.
void multiply(const Job& job, const Prepared& block, ExactTiles tiles, int64_t first, int64_t begin, int64_t end, bool fetch) {
  QgemmArgs args = {block.q, block.ldq, block.m, job.kp, block.scale, job.panel(begin), end - begin, nullptr, nullptr,
                    job.output(first, begin), fetch};
  if (tiles.depth) {
    tiles.weights = scratch<uint16_t>(kTableSlot, qgemm_chunk(job.kp, tiles.depth, end - begin) * tiles.depth * kPanel);
    args.tiles = &tiles;
  }
  if (block.exact.used == 0 || tiles.depth) return job.product(&args);
  float* table = scratch<float>(kTableSlot, block.exact.used * 16);
  float* exact = scratch<float>(kExactOutSlot, 2 * block.m * 16);
  args.exact = exact;
  for (int64_t p = begin; p < end; p += 2) {
    args.panels = end - p < 2 ? 1 : 2;
    for (int64_t j = 0; j < args.panels; ++j) job.exact(&block.exact, block.m, job.panel(p + j), table, exact + j * block.m * 16);
    args.w = job.panel(p);
    args.out = job.output(first, p);
    job.product(&args);
  }
}

// Special rows, in runs of at most 64: the float product with the dequantized weight.
void repair(const Job& job, const Prepared& block, int64_t first, int64_t begin, int64_t end) {
  const Matrix& x = job.op.x;
  for (int64_t row = 0; row < block.m; ++row) {
    if (!block.special[row]) continue;
    int64_t stop = row + 1;
    while (stop < block.m && stop < row + 64 && block.special[stop]) ++stop;
    float* v = scratch<float>(kFloatSlot, (stop - row) * job.kp);
    const RowKernels& kernels = row_kernels();
    for (int64_t i = row; i < stop; ++i) load_row(kernels, x, first + i, job.kp, v + (i - row) * job.kp);
    void* memory = scratch<char>(kPanelSlot, fgemm_scratch(job.kp));
    const FgemmArgs args = {v, job.kp, stop - row, job.kp, job.panel(begin), end - begin, 0, job.treatment == kRotation, memory,
                            job.output(first + row, begin)};
    chosen<fgemm_s8>(args.m, kF32)(&args);
    row = stop - 1;
  }
}

// Rows a block: its codes take 1 MB of L2.
int64_t block_rows(int64_t kp) {
  const int64_t fit = (1 << 20) / kp / 32 * 32;
  return fit < 64 ? 64 : fit > 1024 ? 1024 : fit;
}

// Parts of the rows are quantized and multiplied with all panels: one parallel region, for weights that fit in L2.
void split_rows(const Job& job, int64_t tasks, int64_t unit) {
  const int64_t step = block_rows(job.kp);
  parallel_parts(tasks, job.op.x.rows, unit, parts_for(job.op.x.rows), [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += step) {
      Prepared block = reserve(end - first < step ? end - first : step, job.kp, job.layout, job.treatment, job.columns);
      prepare_rows(block, job.op.x, first, 0, block.m, job.treatment, job.columns);
      join_exact(block, job.treatment, job.columns);
      multiply(job, block, exact_tiles(job, block), first, 0, job.panels, false);
      repair(job, block, first, 0, job.panels);
    }
  });
}

// All rows of a block are quantized, then multiplied with parts of the panels.
void split_panels(const Job& job, int64_t tasks) {
  const int64_t m = job.op.x.rows, step = block_rows(job.kp);
  for (int64_t first = 0; first < m; first += step) {
    Prepared block = reserve(m - first < step ? m - first : step, job.kp, job.layout, job.treatment, job.columns);
    parallel_parts(tasks == 1 ? 1 : tasks_for(block.m * job.kp * 2), block.m, kPanel, parts_for(block.m), [&](int64_t begin, int64_t end) {
      prepare_rows(block, job.op.x, first, begin, end, job.treatment, job.columns);
    });
    join_exact(block, job.treatment, job.columns);
    const ExactTiles tiles = exact_tiles(job, block);
    const int64_t unit = job.layout.tiled || job.panels < 8 * tasks ? 2 : 4;  // panels that a kernel takes together
    parallel_parts(tasks, job.panels, unit, parts_for(block.m), [&](int64_t begin, int64_t end) {
      multiply(job, block, tiles, first, begin, end, true);
      repair(job, block, first, begin, end);
    });
  }
}

}  // namespace

const float* widened_bias(const Linear& op) {
  if (op.bias == nullptr) return nullptr;
  if (op.bias_dtype == kF32 && op.n % kPanel == 0) return (const float*)op.bias;
  float* wide = scratch<float>(kBiasSlot, round_up(op.n, kPanel));
  for (int64_t i = 0; i < op.n; ++i) wide[i] = load_float(op.bias, op.bias_dtype, i);
  for (int64_t i = op.n; i < round_up(op.n, kPanel); ++i) wide[i] = 0;
  return wide;
}

void linear_s8s8(const Linear& op, Treatment treatment, float threshold) {
  const int64_t m = op.x.rows, kp = S8::padded(op.x.columns), panels = round_up(op.n, kPanel) / kPanel;
  if (m == 0 || op.n == 0) return;
  const Kernel& kernel = choose(qgemm, m, op.x.dtype);
  const Columns columns = treatment == kColumns ? find_columns(op.x, threshold, kp) : Columns{nullptr, 0};
  const Job job = {op, treatment, columns, kp, panels, widened_bias(op), function_of<qgemm>(kernel),
                   chosen<exact>(m, kF32), Layout{(uint8_t)(kernel.isa == kVnni ? 0x80 : 0), kernel.isa == kAmx}};
  const int64_t bytes = panels * S8::bytes(kp), tasks = tasks_for(bytes + bytes / 16 * m);
  const int64_t unit = treatment == kColumns || treatment == kRows ? 64 : 32;  // rows that share the widening of exact columns
  if (m >= unit * tasks && bytes <= (1 << 20)) split_rows(job, tasks, unit);
  else split_panels(job, tasks);
}

}  // namespace lowbit
