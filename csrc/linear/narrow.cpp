// linear_s8d8: at 8 bits linear_s8s8 as it is; at fewer the codes are rounded a few panels at a time, each time they are read.
#include "common/kernels.h"
#include "linear/expanded.h"
#include "linear/job_product.h"

namespace lowbit {
namespace {

int width_of(const Linear& op) { return D8::width(op.w, round_up(op.n, kPanel) / kPanel, D8::padded(op.x.columns)); }

class Narrow : public JobProduct {
 public:
  Narrow(const Job& job, NarrowFn* rounded, int dropped, int64_t rows)
      : JobProduct(job, D8::bytes(job.kp)), rounded_(rounded), dropped_(dropped), most_(rows <= kFewRows ? 2 : job.panels) {}

  void multiply(int64_t first, int64_t begin, int64_t end, Fetch) const override {
    const auto expand = [&](int64_t p, int8_t* to) { rounded_(panel(p), job_.kp, dropped_, to); };
    const auto work = [&](const Job& part, int64_t from, int64_t stop) { lowbit::multiply(part, block_, {}, first, from, stop, {}); };
    expanded(job_, begin, end, most_, expand, work);
  }

 private:
  static constexpr int64_t kFewRows = 4;  // their work is reading: two panels at a time stay in L1, up to K of about 1000

  NarrowFn* rounded_;
  int dropped_;  // bits of a code
  int64_t most_;
};

template <Treatment treatment>
std::unique_ptr<Product> narrow_product(const Linear& op, int64_t, int64_t rows, const float* bias) {
  const Job job = job_of(op, treatment, {nullptr, 0}, bias, D8::padded(op.x.columns), rows);
  return std::make_unique<Narrow>(job, chosen<narrow>(rows, op.x.dtype), 8 - width_of(op), rows);
}

constexpr LinearOp kS8D8 = linear_op<D8>(false, kMaxKNarrow, 16, narrow_product<kNone>);
constexpr LinearOp kS8D8Rotated = linear_op<D8>(true, kMaxKNarrow, 16, narrow_product<kRotation>);

}  // namespace

void linear_s8d8(const Linear& op, Treatment treatment) {
  if (op.x.rows == 0 || op.n == 0) return;
  if (width_of(op) == 8) return linear_s8s8(op, treatment, 0);
  run(treatment == kRotation ? kS8D8Rotated : kS8D8, op, 0, block_rows(D8::padded(op.x.columns)));
}

}  // namespace lowbit
