// linear_s8d8: at 8 bits linear_s8s8 as it is; at fewer the codes are rounded a few panels at a time, each time they are read.
#include "common/kernels.h"
#include "linear/expanded.h"

namespace lowbit {

void linear_s8d8(const Linear& op, Treatment treatment, int width) {
  if (width == 8) return linear_s8s8(op, treatment, 0);
  const int64_t m = op.x.rows;
  if (m == 0 || op.n == 0) return;
  const Job job = job_of(op, treatment, {nullptr, 0}, widened_bias(op), S8::padded(op.x.columns));
  const int64_t bytes = job.bytes(), tasks = tasks_for(bytes + bytes / 16 * m);
  NarrowFn* rounded = chosen<narrow>(m, op.x.dtype);
  // Of a few rows two panels at a time, which stay in L1 (up to K of about 1000): their work is reading.
  multiply_expanded(job, tasks, m <= 4 ? 2 : job.panels, [&](int64_t index, int8_t* to) { rounded(job.panel(index), job.kp, 8 - width, to); });
}

}  // namespace lowbit
