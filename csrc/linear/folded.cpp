// The products of training in integers.
#include <string.h>

#include "common/convert.h"
#include "common/noise.h"
#include "linear/job_product.h"
#include "linear/kept.h"
#include "linear/parallel.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

// Rows of codes, however they are made, against panels of S8.
class Codes : public JobProduct {
 public:
  explicit Codes(const Job& job) : JobProduct(job, S8::bytes(job.kp)) {}

  void place(int64_t m, char* memory) override {
    JobProduct::place(m, memory);
    memset(block_.special, 0, (size_t)m);  // a row that is not finite has a scale that shows it
  }
  void multiply(int64_t first, int64_t begin, int64_t end, Fetch fetch) const override {
    lowbit::multiply(job_, block_, {}, first, begin, end, fetch);
  }
};

class KeptRows : public Codes {
 public:
  KeptRows(const Job& job, const Kept& x) : Codes(job), x_(x) {}

  void prepare(int64_t first, int64_t begin, int64_t end) const override {
    const int64_t kp = block_.kp;
    int8_t* codes = scratch<int8_t>(kRowSlot, kp);
    for (int64_t i = begin; i < end; ++i) {
      x_.read(first + i, 0, x_.columns, kp, codes);
      int8_t* to = block_.row(i);
      for (int64_t b = 0; b < kp; b += kBlock, to += block_.step()) {
        for (int64_t j = 0; j < kBlock; ++j) to[j] = (int8_t)(codes[b + j] ^ block_.layout.flip);
      }
      block_.scale[i] = x_.scale[first + i];
    }
  }

 private:
  Kept x_;
};

// Of a gradient: results are rotated back where what it meets is rotated, 64 columns at a time.
class Drawn : public Codes {
 public:
  Drawn(const Job& job, const Folded& op) : Codes(job), op_(op), signs_(op.rotated ? rotation_signs(kBlock) : nullptr) {}

  int64_t unit(int64_t tasks) const override { return signs_ ? 4 : Codes::unit(tasks); }
  void multiply(int64_t first, int64_t begin, int64_t end, Fetch fetch) const override {
    if (signs_ == nullptr) return Codes::multiply(first, begin, end, fetch);
    for (int64_t p = begin; p < end; p += 4) {
      turn_back(first, p, {fetch.panels, p + 4 < end ? (const char*)panel(p + 4) : fetch.after});
    }
  }

 protected:
  Folded op_;

 private:
  void turn_back(int64_t first, int64_t p, Fetch fetch) const {
    const RowKernels& kernels = row_kernels();
    float* y = scratch<float>(kTurnSlot, block_.m * kBlock);
    Job part = job_;
    part.op.w = panel(p);
    part.op.n = kBlock;
    part.op.out = y;
    part.op.out_dtype = kF32;
    lowbit::multiply(part, block_, {}, 0, 0, 4, fetch);
    const int64_t column = p * kPanel, left = op_.k - column, count = left < kBlock ? left : kBlock;
    for (int64_t i = 0; i < block_.m; ++i, y += kBlock) {
      kernels.rotate(y, kBlock);
      kernels.prologue({kIdentity, 0, {signs_, kF32}, {nullptr, kF32}}, kBlock, kBlock, y);
      kernels.save(y, count, op_.out_dtype, (char*)op_.out + ((first + i) * op_.k + column) * element_size(op_.out_dtype));
    }
  }

  const float* signs_;
};

class DrawnRows : public Drawn {
 public:
  using Drawn::Drawn;

  void prepare(int64_t first, int64_t begin, int64_t end) const override {
    const RowKernels& kernels = row_kernels();
    const int64_t kp = block_.kp;
    float* v = scratch<float>(kRowSlot, kp);
    for (int64_t i = begin; i < end; ++i) {
      const Fit fit = fit_of(load_row(kernels, job_.op.x, first + i, kp, v), op_.kept.largest());
      if (fit.inverse == 0) clear_codes(kp, block_.layout.flip, block_.row(i), block_.step());
      else kernels.draw(v, kp, fit.inverse, row_key(op_.key, first + i), block_.layout.flip, block_.row(i), block_.step());
      block_.scale[i] = fit.scale;
    }
  }
};

class DrawnColumns : public Drawn {
 public:
  using Drawn::Drawn;

  // A second time 16 columns come from L2.
  void prepare(int64_t first, int64_t begin, int64_t end) const override {
    const Matrix& dy = op_.dy;
    for (int64_t i = begin; i < end; i += kPanel) {
      const int64_t count = end - i < kPanel ? end - i : kPanel;
      draw({(const char*)dy.data + (first + i) * element_size(dy.dtype), dy.dtype, dy.stride, dy.rows, count, op_.kept.scale}, first + i, i);
    }
  }

 private:
  // Columns of dy from `column` on become rows of the block from `row` on.
  void draw(const ColumnArgs& args, int64_t column, int64_t row) const {
    const RowKernels& kernels = row_kernels();
    uint32_t maxima[kPanel], keys[kPanel];
    float inverse[kPanel];
    kernels.column_maxima(args, maxima);
    for (int64_t j = 0; j < kPanel; ++j) {
      const Fit fit = fit_of(maxima[j], op_.kept.largest());
      inverse[j] = fit.inverse;
      keys[j] = row_key(op_.key, column + j);
      if (j < args.count) block_.scale[row + j] = fit.scale;
    }
    const Layout& layout = block_.layout;
    kernels.draw_columns(args, inverse, keys, layout.flip, block_.row(row), layout.tiled ? kBlock : block_.ldq, block_.step());
    for (int64_t j = 0; j < args.count; ++j) {
      if (maxima[j] >= kInfBits) clear_codes(block_.kp, layout.flip, block_.row(row + j), block_.step());
    }
  }
};

void run(Product& product, const Job& job) {
  run(product, job.op.x.rows, job.kp, tasks_for(kS8S8.work(job.op.n, job.op.x.columns, 0, job.op.x.rows)), block_rows(job.kp));
}

// Rows of `dtype` against panels for n columns.
Job job_of_codes(const Matrix& x, const int8_t* w, int64_t n, const void* bias, Dtype bias_dtype, void* out, Dtype out_dtype) {
  const Linear op = {x, w, n, bias, bias_dtype, out, out_dtype};
  return job_of(op, kNone, {nullptr, 0}, widened_bias(op), S8::padded(x.columns), x.rows);
}

}  // namespace

void multiply_kept(const Kept& x, const Kept& w, const void* bias, Dtype bias_dtype, void* out, Dtype out_dtype) {
  const Matrix rows = {nullptr, 0, x.rows, x.columns, kF32, {}, 0};
  const Job job = job_of_codes(rows, pack_rows(w), w.rows, bias, bias_dtype, out, out_dtype);
  KeptRows product(job, x);
  run(product, job);
}

void multiply_folded(const Folded& op) {
  Matrix rows = op.dy;
  if (op.columns) rows = {nullptr, 0, op.dy.columns, op.dy.rows, op.dy.dtype, {}, 0};
  else rows.prologue.times = {op.kept.scale, kF32};
  const Job job = job_of_codes(rows, pack_columns(op.kept), op.kept.columns, nullptr, kF32, op.out, op.out_dtype);
  if (op.columns) {
    DrawnColumns product(job, op);
    run(product, job);
  } else {
    DrawnRows product(job, op);
    run(product, job);
  }
}

}  // namespace lowbit
