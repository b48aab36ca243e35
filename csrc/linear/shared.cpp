#include "linear/shared.h"

#include <string.h>

#include "common/convert.h"
#include "linear/job_product.h"
#include "linear/parallel.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

// Rows whose largest magnitudes are given.
class GivenReach : public JobProduct {
 public:
  GivenReach(const Job& job, const int32_t* reach) : JobProduct(job, S8::bytes(job.kp)), reach_(reach) {}

  void place(int64_t m, char* memory) override {
    JobProduct::place(m, memory);
    memset(block_.special, 0, (size_t)m);
  }
  void prepare(int64_t first, int64_t begin, int64_t end) const override {
    const RowKernels& kernels = row_kernels();
    const int64_t kp = block_.kp;
    float* v = scratch<float>(kRowSlot, kp);
    for (int64_t i = begin; i < end; ++i) {
      load_row(kernels, job_.op.x, first + i, kp, v);
      if (job_.treatment == kRotation) kernels.rotate(v, kp);
      block_.scale[i] = encode(kernels, v, kp, (uint32_t)reach_[first + i], S8::kMost, block_.layout.flip, block_.row(i), block_.step());
    }
  }
  void multiply(int64_t first, int64_t begin, int64_t end, Fetch fetch) const override {
    lowbit::multiply(job_, block_, {}, first, begin, end, fetch);
  }

 private:
  const int32_t* reach_;
};

}  // namespace

void reach_s8(const Matrix& x, bool rotated, int32_t* reach) {
  const RowKernels& kernels = row_kernels();
  const int64_t kp = round_up(x.columns, kBlock), tasks = tasks_for(x.rows * kp * 2);
  parallel(tasks, [&](int64_t task) {
    float* v = scratch<float>(kRowSlot, kp);
    const Range range = share(x.rows, tasks, task, 1);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const uint32_t a = load_row(kernels, x, i, kp, v);
      reach[i] = a > kInfBits ? kNanReach : (int32_t)(rotated ? kernels.rotate(v, kp) : a);
    }
  });
}

void sums_s8s8(const Matrix& x, bool rotated, const int32_t* reach, const int8_t* w, int64_t n, int32_t* out) {
  const Linear op = {x, w, n, nullptr, kF32, out, kS32};
  const int64_t kp = S8::padded(x.columns);
  GivenReach product(job_of(op, rotated ? kRotation : kNone, {nullptr, 0}, nullptr, kp, x.rows), reach);
  run(product, x.rows, kp, tasks_for(kS8S8.work(n, x.columns, 0, x.rows)), block_rows(kp));
}

void scale_sums(const ScaledSums& op) {
  const RowKernels& kernels = row_kernels();
  const int64_t kp = S8::padded(op.k), n = op.n, size = element_size(op.out_dtype), tasks = tasks_for(op.rows * n * 8);
  const float* bias = widened(op.bias, op.bias_dtype, n, scratch<float>(kBiasSlot, op.bias ? round_up(n, kPanel) : 0));
  // Tiles are stored as bfloat16 by hardware that takes subnormals as zero.
  const bool flush = op.out_dtype == kBF16 && choose(qgemm, op.rows, kF32).isa == kAmx;
  parallel(tasks, [&](int64_t task) {
    float* y = scratch<float>(kRowSlot, round_up(n, kBlock));
    const Range range = share(op.rows, tasks, task, 1);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const float scale = fit_of((uint32_t)op.reach[i], S8::kMost).scale;
      const int32_t* sums = op.sums + i * n;
      for (int64_t p = 0; p < n; p += kPanel) {
        float ws[kPanel];  // packed weights may begin at any address
        memcpy(ws, S8::scales(op.w + p / kPanel * S8::bytes(kp), kp), sizeof ws);
        for (int64_t j = 0; j < kPanel && p + j < n; ++j) {
          float v = (float)sums[p + j] * scale * ws[j];
          if (bias) v += bias[p + j];
          y[p + j] = flush && __builtin_fabsf(v) < 0x1p-126f ? __builtin_copysignf(0, v) : v;
        }
      }
      kernels.save(y, n, op.out_dtype, (char*)op.out + i * n * size);
    }
  });
}

}  // namespace lowbit
