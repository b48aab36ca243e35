// One product with a packed weight, whatever its numbers are: rows are made ready, then panels of the weight meet them.
#pragma once
#include <memory>

#include "linear/linear.h"

namespace lowbit {

// What is the same for all rows of a product, and the work on some rows or panels; a block of rows at a time.
class Product {
 public:
  Product(const int8_t* w, int64_t panels, int64_t panel_bytes) : w_(w), panels_(panels), panel_bytes_(panel_bytes) {}
  virtual ~Product() = default;

  int64_t panels() const { return panels_; }
  int64_t panel_bytes() const { return panel_bytes_; }
  const int8_t* panel(int64_t index) const { return w_ + index * panel_bytes_; }
  // Panels that a kernel takes together, where `tasks` threads share them.
  virtual int64_t unit(int64_t) const { return 2; }

  // Bytes that `m` ready rows take, and where those of the next block are to lie: aligned to 64.
  virtual int64_t room(int64_t m) const = 0;
  virtual void place(int64_t m, char* memory) = 0;
  // Makes rows begin..end of the block ready, which starts at row `first` of x.
  virtual void prepare(int64_t first, int64_t begin, int64_t end) const = 0;
  // Rows of the block against panels begin..end.
  virtual void multiply(int64_t first, int64_t begin, int64_t end, Fetch fetch) const = 0;

 private:
  const int8_t* w_;
  int64_t panels_, panel_bytes_;
};

// One of the ops that multiply by a packed weight: what calls of it and steps of a chain make their products with. `group` counts where F has groups.
struct LinearOp {
  int64_t least_group;   // 0: it has no groups
  bool rotated;
  int64_t most_k;        // 0: any
  int64_t rows_a_read;   // rows whose multiplication takes as long as the weight takes to come from memory
  int64_t (*padded)(int64_t k, int64_t group);
  int64_t (*bytes)(int64_t kp, int64_t group);  // of a panel
  bool (*rows_end)(const int8_t* w, int64_t n, int64_t k, int64_t group);
  bool (*columns_end)(const int8_t* w, int64_t k, int64_t group);
  // Kernels are those for `rows` in all; `bias` is op.bias in float32, padded to whole panels, or null.
  std::unique_ptr<Product> (*product)(const Linear& op, int64_t group, int64_t rows, const float* bias);

  // What it takes, in bytes read from memory.
  int64_t work(int64_t n, int64_t k, int64_t group, int64_t rows) const {
    const int64_t all = round_up(n, kPanel) / kPanel * bytes(padded(k, group), group);
    return all + all / rows_a_read * rows;
  }
};

template <class F>
constexpr LinearOp linear_op(bool rotated, int64_t most_k, int64_t rows_a_read, decltype(LinearOp::product) product) {
  return {F::kGrouped ? kLeastGroup<F> : 0, rotated, most_k, rows_a_read, [](int64_t k, int64_t group) { return F::padded(k, group); },
          [](int64_t kp, int64_t group) { return F::bytes(kp, group); }, rows_end<F>, columns_end<F>, product};
}

extern const LinearOp kS8S8, kS8S8Rotated, kS8U4Nested, kS8U4NestedRotated, kS8Ternary;
template <class F>
const LinearOp& float_op();

// The product of all rows, in blocks of at most `step` rows.
void run(Product& product, int64_t rows, int64_t kp, int64_t tasks, int64_t step);
// A call of its own.
void run(const LinearOp& kind, const Linear& op, int64_t group, int64_t step);

}  // namespace lowbit
