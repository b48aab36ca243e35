// Products of int8 rows with weights whose codes stand for int8 codes in fewer bits: few rows meet the codes as they are; for more, parts of the
// panels become those of S8 and meet the kernels of linear_s8s8.
#include "common/kernels.h"
#include "linear/expanded.h"
#include "linear/job_product.h"

namespace lowbit {
namespace {

constexpr int64_t kFewRows = 4;  // up to these, making int8 of a panel costs more than it saves (measured)

class Nested : public JobProduct {
 public:
  Nested(const Job& job, const NestedKernels& kernels, int64_t group, int64_t panel_bytes, int64_t rows)
      : JobProduct(job, panel_bytes), kernels_(kernels), group_(group), few_(rows <= kFewRows) {
    if (few_) job_.layout = {0, false};
  }

  int64_t unit(int64_t tasks) const override { return few_ ? 2 : JobProduct::unit(tasks); }
  int64_t room(int64_t m) const override { return codes(m) + (few_ ? m * groups() * 4 : 0); }
  void place(int64_t m, char* memory) override {
    JobProduct::place(m, memory);
    sums_ = (int32_t*)(memory + codes(m));
  }
  void prepare(int64_t first, int64_t begin, int64_t end) const override {
    JobProduct::prepare(first, begin, end);
    if (few_) add_up(begin, end);
  }
  void multiply(int64_t first, int64_t begin, int64_t end, Fetch fetch) const override {
    if (few_) return meet_codes(first, begin, end, fetch);
    expanded(begin, end, [&](const Job& part, int64_t from, int64_t to) { lowbit::multiply(part, block_, {}, first, from, to, {}); });
  }

 private:
  int64_t codes(int64_t m) const { return round_up(JobProduct::room(m), 4); }
  int64_t groups() const { return job_.kp / group_; }

  // The sum of each group of the codes of rows begin..end.
  void add_up(int64_t begin, int64_t end) const {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t g = 0; g < groups(); ++g) {
        const int8_t* q = block_.q + i * block_.ldq + g * group_;
        int32_t sum = 0;
        for (int64_t k = 0; k < group_; ++k) sum += q[k];
        sums_[i * groups() + g] = sum;
      }
    }
  }

  void meet_codes(int64_t first, int64_t begin, int64_t end, Fetch fetch) const {
    const NestedArgs args = {block_.q, block_.ldq, block_.m, job_.kp, group_, block_.scale, sums_, panel(begin), end - begin,
                             job_.output(first, begin), fetch};
    kernels_.product(&args);
    for (int64_t i = 0; i < block_.m; ++i) {
      if (!block_.special[i]) continue;
      return expanded(begin, end, [&](const Job& part, int64_t from, int64_t to) { repair(part, block_, first, from, to); });
    }
  }

  template <class F>
  void expanded(int64_t begin, int64_t end, const F& work) const {
    const auto expand = [&](int64_t p, int8_t* to) { kernels_.expand(panel(p), job_.kp, group_, to); };
    lowbit::expanded(job_, begin, end, job_.panels, expand, work);
  }

  const NestedKernels& kernels_;
  int64_t group_;
  bool few_;
  int32_t* sums_;  // [m][kp/group]
};

template <class F, Family family, Treatment treatment>
std::unique_ptr<Product> nested(const Linear& op, int64_t group, int64_t rows, const float* bias) {
  const int64_t kp = F::padded(op.x.columns, group), span = F::kGrouped ? group : kp;
  return std::make_unique<Nested>(job_of(op, treatment, {nullptr, 0}, bias, kp, rows), chosen<family>(rows, op.x.dtype), span, F::bytes(kp, group), rows);
}

void run_nested(const LinearOp& kind, const Linear& op, int64_t group) {
  if (op.x.rows > 0 && op.n > 0) run(kind, op, group, block_rows(kind.padded(op.x.columns, group)));
}

}  // namespace

const LinearOp kS8U4Nested = linear_op<U4Nested>(false, kMaxK, 8, nested<U4Nested, qgemm_u4, kNone>);
const LinearOp kS8U4NestedRotated = linear_op<U4Nested>(true, kMaxK, 8, nested<U4Nested, qgemm_u4, kRotation>);
const LinearOp kS8Ternary = linear_op<Ternary>(false, kMaxK, 8, nested<Ternary, qgemm_ternary, kNone>);

void linear_s8u4_nested(const Linear& op, Treatment treatment, int64_t group) {
  run_nested(treatment == kRotation ? kS8U4NestedRotated : kS8U4Nested, op, group);
}

void linear_s8ternary(const Linear& op) { run_nested(kS8Ternary, op, 0); }

}  // namespace lowbit
