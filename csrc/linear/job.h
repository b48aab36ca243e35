// One product in integers: what is the same for all of its rows, and the work on some of its panels.
#pragma once
#include "common/kernels.h"
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

  // Panels that a kernel takes together, where `tasks` threads share them.
  int64_t unit(int64_t tasks) const { return layout.tiled || panels < 8 * tasks ? 2 : 4; }
  Output output(int64_t row, int64_t panel) const {
    char* data = (char*)op.out + (row * op.n + panel * kPanel) * element_size(op.out_dtype);
    return {data, op.n, op.n - panel * kPanel, op.out_dtype, bias ? bias + panel * kPanel : nullptr};
  }
  const int8_t* panel(int64_t index) const { return op.w + (index - base) * S8::bytes(kp); }
};

// Of rows padded to kp, with this machine's kernels for `rows` of them. `bias` is op.bias in float32, padded to whole panels, or null.
Job job_of(const Linear& op, Treatment treatment, const Columns& columns, const float* bias, int64_t kp, int64_t rows);

// The exact elements of a block as a dense product, where the kernel takes that and it is faster.
ExactTiles exact_tiles(const Job& job, const Prepared& block);

// Rows of the block against panels begin..end, those that int8 cannot hold included; the block starts at row `first` of x.
void multiply(const Job& job, const Prepared& block, ExactTiles tiles, int64_t first, int64_t begin, int64_t end, Fetch fetch);

// Those of the block's rows that int8 cannot hold, as float rows.
void repair(const Job& job, const Prepared& block, int64_t first, int64_t begin, int64_t end);

// Rows a block: its codes take 1 MB of L2.
int64_t block_rows(int64_t kp);

}  // namespace lowbit
