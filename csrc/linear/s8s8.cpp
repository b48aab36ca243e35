// linear_s8s8: quantize rows, multiply integers, repair rows that int8 cannot hold.
#include "common/convert.h"
#include "linear/job.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

// Parts of the rows are quantized and multiplied with all panels: one parallel region, for weights that fit in L2.
void split_rows(const Job& job, int64_t tasks, int64_t unit) {
  const int64_t step = block_rows(job.kp);
  parallel_parts(tasks, job.op.x.rows, unit, parts_for(job.op.x.rows), [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += step) {
      Prepared block = reserve(end - first < step ? end - first : step, job.kp, job.layout, job.treatment, job.columns);
      prepare_rows(block, job.op.x, first, 0, block.m, job.treatment, job.columns);
      join_exact(block, job.treatment, job.columns);
      multiply(job, block, exact_tiles(job, block), first, 0, job.panels, {});
    }
  });
}

}  // namespace

const float* widened(const void* bias, Dtype dtype, int64_t n, float* memory) {
  if (bias == nullptr || (dtype == kF32 && n % kPanel == 0)) return (const float*)bias;
  for (int64_t i = 0; i < n; ++i) memory[i] = load_float(bias, dtype, i);
  for (int64_t i = n; i < round_up(n, kPanel); ++i) memory[i] = 0;
  return memory;
}

const float* widened_bias(const Linear& op) {
  return widened(op.bias, op.bias_dtype, op.n, scratch<float>(kBiasSlot, op.bias ? round_up(op.n, kPanel) : 0));
}

void linear_s8s8(const Linear& op, Treatment treatment, float threshold) {
  const int64_t m = op.x.rows;
  if (m == 0 || op.n == 0) return;
  const Columns columns = treatment == kColumns ? find_columns(op.x, threshold, S8::padded(op.x.columns)) : Columns{nullptr, 0};
  const Job job = job_of(op, treatment, columns, widened_bias(op), S8::padded(op.x.columns));
  const int64_t bytes = job.bytes(), tasks = tasks_for(bytes + bytes / 16 * m);
  const int64_t unit = treatment == kColumns || treatment == kRows ? 64 : 32;  // rows that share the widening of exact columns
  if (m >= unit * tasks && bytes <= (1 << 20)) return split_rows(job, tasks, unit);
  split_panels(job, tasks, [&](const Prepared& block, ExactTiles tiles, int64_t first, int64_t begin, int64_t end) {
    multiply(job, block, tiles, first, begin, end, {true, nullptr});
  });
}

}  // namespace lowbit
