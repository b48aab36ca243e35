// Products of int8 rows with weights whose codes stand for int8 codes in fewer bits: few rows meet the codes as they are; for more, parts of the
// panels become those of S8 and meet the kernels of linear_s8s8.
#include "common/kernels.h"
#include "linear/expanded.h"

namespace lowbit {
namespace {

constexpr int64_t kFewRows = 4;  // up to these, making int8 of a panel costs more than it saves (measured)

struct NestedJob {
  Job job;  // its op.w has panels of the format
  const NestedKernels& kernels;
  int64_t group, bytes;  // bytes of a panel

  const int8_t* panel(int64_t index) const { return job.op.w + index * bytes; }
  void operator()(int64_t index, int8_t* to) const { kernels.expand(panel(index), job.kp, group, to); }  // as S8
};

// The sum of each group of a row's codes, [m][kp/group].
const int32_t* sums_of(const Prepared& block, int64_t group) {
  const int64_t groups = block.kp / group;
  int32_t* sums = scratch<int32_t>(kTableSlot, block.m * groups);
  for (int64_t i = 0; i < block.m; ++i) {
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* q = block.q + i * block.ldq + g * group;
      int32_t sum = 0;
      for (int64_t k = 0; k < group; ++k) sum += q[k];
      sums[i * groups + g] = sum;
    }
  }
  return sums;
}

void few_rows(const NestedJob& nested, int64_t tasks) {
  const Job& job = nested.job;
  const int64_t m = job.op.x.rows;
  Prepared block = reserve(m, job.kp, {0, false}, job.treatment, job.columns);
  prepare_rows(block, job.op.x, 0, 0, m, job.treatment, job.columns);
  const int32_t* sums = sums_of(block, nested.group);
  bool special = false;
  for (int64_t i = 0; i < m; ++i) special = special || block.special[i];
  parallel_parts(tasks, job.panels, 2, parts_for(m), [&](int64_t begin, int64_t end) {
    const NestedArgs args = {block.q, block.ldq, m, job.kp, nested.group, block.scale, sums, nested.panel(begin), end - begin, job.output(0, begin)};
    nested.kernels.product(&args);
    if (!special) return;
    expanded(job, begin, end, job.panels, nested, [&](const Job& part, int64_t from, int64_t stop) { repair(part, block, 0, from, stop); });
  });
}

template <Family family>
void linear_nested(const Linear& op, Treatment treatment, int64_t kp, int64_t group, int64_t panel_bytes) {
  const int64_t m = op.x.rows;
  if (m == 0 || op.n == 0) return;
  const NestedJob nested = {job_of(op, treatment, {nullptr, 0}, widened_bias(op), kp), chosen<family>(m, op.x.dtype), group, panel_bytes};
  const int64_t bytes = nested.job.panels * panel_bytes, tasks = tasks_for(bytes + bytes / 8 * m);
  if (m <= kFewRows) few_rows(nested, tasks);
  else multiply_expanded(nested.job, tasks, nested.job.panels, nested);
}

}  // namespace

void linear_s8u4_nested(const Linear& op, Treatment treatment, int64_t group) {
  const int64_t kp = U4Nested::padded(op.x.columns, group);
  linear_nested<qgemm_u4>(op, treatment, kp, group, U4Nested::bytes(kp, group));
}

void linear_s8ternary(const Linear& op) {
  const int64_t kp = Ternary::padded(op.x.columns);
  linear_nested<qgemm_ternary>(op, kNone, kp, kp, Ternary::bytes(kp));
}

}  // namespace lowbit
