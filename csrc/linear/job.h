// One product in integers: what is the same for all of its rows, and the work on some of its panels.
#pragma once
#include "common/kernels.h"
#include "linear/parallel.h"
#include "linear/prepare.h"

namespace lowbit {

struct Job {
  Linear op;
  Treatment treatment;
  Columns columns;  // exact ones, of LLM.int8()
  int64_t kp, panels;
  const float* bias;  // padded to whole panels, or null
  QgemmFn* product;
  ExactFn* exact;
  Layout layout;
  int64_t base = 0;  // the panel that op.w begins with

  int64_t bytes() const { return panels * S8::bytes(kp); }
  // Panels that a kernel takes together, where `tasks` threads share them.
  int64_t unit(int64_t tasks) const { return layout.tiled || panels < 8 * tasks ? 2 : 4; }
  Output output(int64_t row, int64_t panel) const {
    char* data = (char*)op.out + (row * op.n + panel * kPanel) * element_size(op.out_dtype);
    return {data, op.n, op.n - panel * kPanel, op.out_dtype, bias ? bias + panel * kPanel : nullptr};
  }
  const int8_t* panel(int64_t index) const { return op.w + (index - base) * S8::bytes(kp); }
};

// For the rows of op.x, padded to kp, and this machine's kernels. `bias` is op.bias in float32, padded to whole panels, or null.
Job job_of(const Linear& op, Treatment treatment, const Columns& columns, const float* bias, int64_t kp);

// The exact elements of a block as a dense product, where the kernel takes that and it is faster.
ExactTiles exact_tiles(const Job& job, const Prepared& block);

// Rows of the block against panels begin..end, those that int8 cannot hold included; the block starts at row `first` of x.
void multiply(const Job& job, const Prepared& block, ExactTiles tiles, int64_t first, int64_t begin, int64_t end, Fetch fetch);

// Those of the block's rows that int8 cannot hold, as float rows.
void repair(const Job& job, const Prepared& block, int64_t first, int64_t begin, int64_t end);

// Rows a block: its codes take 1 MB of L2.
int64_t block_rows(int64_t kp);

// All rows of a block are quantized, then `work(block, tiles, first, begin, end)` multiplies them with parts of the panels.
template <class F>
void split_panels(const Job& job, int64_t tasks, const F& work) {
  const int64_t m = job.op.x.rows, step = block_rows(job.kp);
  for (int64_t first = 0; first < m; first += step) {
    Prepared block = reserve(m - first < step ? m - first : step, job.kp, job.layout, job.treatment, job.columns);
    parallel_parts(tasks == 1 ? 1 : tasks_for(block.m * job.kp * 2), block.m, kPanel, parts_for(block.m), [&](int64_t begin, int64_t end) {
      prepare_rows(block, job.op.x, first, begin, end, job.treatment, job.columns);
    });
    join_exact(block, job.treatment, job.columns);
    const ExactTiles tiles = exact_tiles(job, block);
    parallel_parts(tasks, job.panels, job.unit(tasks), parts_for(block.m), [&](int64_t begin, int64_t end) { work(block, tiles, first, begin, end); });
  }
}

}  // namespace lowbit
