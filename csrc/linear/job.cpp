// The work on some panels of a product in integers, for a block of rows that are quantized.
#include "linear/job.h"

#include "linear/scratch.h"

namespace lowbit {
namespace {

void products(const Job& job, const Prepared& block, ExactTiles tiles, int64_t first, int64_t begin, int64_t end, Fetch fetch) {
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
    args.fetch.after = p + 2 < end ? (const char*)job.panel(p + 2) : fetch.after;
    args.out = job.output(first, p);
    job.product(&args);
  }
}

}  // namespace

Job job_of(const Linear& op, Treatment treatment, const Columns& columns, const float* bias, int64_t kp, int64_t rows) {
  const Kernel& kernel = choose(qgemm, rows, op.x.dtype);
  return {op, treatment, columns, kp, round_up(op.n, kPanel) / kPanel, bias, function_of<qgemm>(kernel),
          chosen<exact>(rows, kF32), Layout{(uint8_t)(kernel.isa == kVnni ? 0x80 : 0), kernel.isa == kAmx}};
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

// A kernel that takes codes in tiles can take exact elements in tiles too, as a dense product over the columns used. One column
// of all rows costs a tile product about as much as 1/24 of an element of each row costs the vector units (measured).
ExactTiles exact_tiles(const Job& job, const Prepared& block) {
  if (!job.layout.tiled || block.exact.used == 0) return {};
  int64_t elements = 0;
  for (int64_t i = 0; i < block.m; ++i) elements += block.exact.count[i];
  const bool dense = block.exact.used * parts_of(dtype_read(job.op.x)) * block.m < 24 * elements;
  return dense ? tile_exact(block, dtype_read(job.op.x)) : ExactTiles{};
}

void multiply(const Job& job, const Prepared& block, ExactTiles tiles, int64_t first, int64_t begin, int64_t end, Fetch fetch) {
  products(job, block, tiles, first, begin, end, fetch);
  repair(job, block, first, begin, end);
}

int64_t block_rows(int64_t kp) {
  const int64_t fit = (1 << 20) / kp / 32 * 32;
  return fit < 64 ? 64 : fit > 1024 ? 1024 : fit;
}

}  // namespace lowbit
