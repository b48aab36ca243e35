#include "linear/product.h"

#include "linear/parallel.h"
#include "linear/scratch.h"

namespace lowbit {

void run(const LinearOp& kind, const Linear& op, int64_t group, int64_t step) {
  const int64_t rows = op.x.rows, kp = kind.padded(op.x.columns, group), tasks = tasks_for(kind.work(op.n, op.x.columns, group, rows));
  const std::unique_ptr<Product> product = kind.product(op, group, rows, widened_bias(op));
  run(*product, rows, kp, tasks, step);
}

void run(Product& product, int64_t rows, int64_t kp, int64_t tasks, int64_t step) {
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t m = rows - first < step ? rows - first : step;
    product.place(m, scratch<char>(kCodesSlot, product.room(m)));
    parallel_parts(tasks == 1 ? 1 : tasks_for(m * kp * 2), m, kPanel, parts_for(m),
                   [&](int64_t begin, int64_t end) { product.prepare(first, begin, end); });
    parallel_parts(tasks, product.panels(), product.unit(tasks), parts_for(m),
                   [&](int64_t begin, int64_t end) { product.multiply(first, begin, end, {true, nullptr}); });
  }
}

}  // namespace lowbit
