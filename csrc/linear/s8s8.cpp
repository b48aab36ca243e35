// linear_s8s8: quantize rows, multiply integers, repair rows that int8 cannot hold.
#include "common/convert.h"
#include "linear/job_product.h"
#include "linear/parallel.h"
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
    parallel_parts(tasks, job.panels, job.unit(tasks), parts_for(block.m), [&](int64_t begin, int64_t end) {
      multiply(job, block, tiles, first, begin, end, {true, nullptr});
    });
  }
}

// Without exact elements.
class Integers : public JobProduct {
 public:
  explicit Integers(const Job& job) : JobProduct(job, S8::bytes(job.kp)) {}

  void multiply(int64_t first, int64_t begin, int64_t end, Fetch fetch) const override {
    lowbit::multiply(job_, block_, {}, first, begin, end, fetch);
  }
};

template <Treatment treatment>
std::unique_ptr<Product> integers(const Linear& op, int64_t, int64_t rows, const float* bias) {
  return std::make_unique<Integers>(job_of(op, treatment, {nullptr, 0}, bias, S8::padded(op.x.columns), rows));
}

}  // namespace

const LinearOp kS8S8 = linear_op<S8>(false, kMaxK, 16, integers<kNone>);
const LinearOp kS8S8Rotated = linear_op<S8>(true, kMaxK, 16, integers<kRotation>);

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
  const Job job = job_of(op, treatment, columns, widened_bias(op), S8::padded(op.x.columns), m);
  const int64_t tasks = tasks_for(kS8S8.work(op.n, op.x.columns, 0, m));
  const int64_t unit = treatment == kColumns || treatment == kRows ? 64 : 32;  // rows that share the widening of exact columns
  if (m >= unit * tasks && job.panels * S8::bytes(job.kp) <= (1 << 20)) split_rows(job, tasks, unit);
  else split_panels(job, tasks);
}

}  // namespace lowbit
