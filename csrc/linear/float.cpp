// linear_fs8 and its like: float rows, packed weights.
#include <string.h>

#include "common/kernels.h"
#include "linear/prepare.h"
#include "linear/product.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

constexpr int64_t kMostRows = 512;  // of a block

// One row into tiles of 16 by 32, padded with zeros to kp.
void tile_row(const char* row, int64_t k, int64_t kp, char* to) {
  constexpr int64_t kTile = 16 * kLine;
  const int64_t whole = k / 32, rest = k % 32 * 2;
  for (int64_t b = 0; b < whole; ++b) memcpy(to + b * kTile, row + b * kLine, kLine);
  for (int64_t b = whole; b < kp / 32; ++b) memset(to + b * kTile, 0, kLine);
  if (rest) memcpy(to + whole * kTile, row + whole * kLine, (size_t)rest);
}

// What an op of its own would have made of the row: rounded to the dtype of x where there is a prologue; and widened, in v.
const char* read_row(const Matrix& x, int64_t row, int64_t kp, float* v) {
  const RowKernels& kernels = row_kernels();
  load_row(kernels, x, row, kp, v);
  if (is_plain(x)) return row_of(x, row);
  char* rounded = scratch<char>(kRoundedSlot, kp * 4);
  kernels.save(v, x.columns, x.dtype, rounded);
  if (x.dtype != kF32) kernels.load(rounded, x.dtype, x.columns, kp, v);
  return rounded;
}

class Floats : public Product {
 public:
  Floats(const Linear& op, const Kernel& kernel, FgemmFn* product, int64_t kp, int64_t group, int64_t panel_bytes, const float* bias)
      : Product(op.w, round_up(op.n, kPanel) / kPanel, panel_bytes), op_(op), kernel_(kernel), product_(product), bias_(bias), kp_(kp),
        stride_(kp % 512 || tiled() ? kp : kp + 32), group_(group) {}  // strides: see linear/prepare.cpp

  int64_t room(int64_t m) const override {
    return fixed() ? m * (stride_ * 2 + numbers() * 4 + 1) : round_up(m, kPanel) * stride_ * (tiled() ? 2 : 4);
  }
  void place(int64_t m, char* memory) override {
    m_ = m;
    rows_ = memory;
    if (!fixed()) return;
    spans_ = (float*)(memory + m * stride_ * 2);
    special_ = (uint8_t*)(spans_ + m * numbers());
  }
  void prepare(int64_t first, int64_t begin, int64_t end) const override {
    float* v = scratch<float>(kRowSlot, kp_);
    for (int64_t i = begin; i < end; ++i) {
      if (!tiled() && !fixed()) {
        read_row(op_.x, first + i, kp_, (float*)rows_ + i * stride_);
        continue;
      }
      const char* row = read_row(op_.x, first + i, kp_, v);
      if (tiled()) tile_row(row, op_.x.columns, kp_, rows_ + (i / 16 * 16 * kp_ + i % 16 * 32) * 2);
      else fix(i, v);
    }
  }
  void multiply(int64_t first, int64_t begin, int64_t end, Fetch fetch) const override {
    meet(product_, rows_, m_, spans_, first, begin, end, fetch);
    for (int64_t i = 0; special_ && i < m_; ++i) {
      if (special_[i]) repair(first + i, begin, end);
    }
  }

 private:
  bool tiled() const { return kernel_.needs == kBF16Only; }
  bool fixed() const { return kernel_.needs == kPairs || kernel_.needs == kBytes; }
  int64_t numbers() const { return kp_ / group_ * 2; }

  // A row in fixed point, unless it cannot hold it.
  void fix(int64_t i, const float* v) const {
    float* spans = spans_ + i * numbers();
    special_[i] = !row_kernels().fixed(v, kp_, group_, kernel_.needs == kBytes, (int16_t*)rows_ + i * stride_, spans);
    if (special_[i]) memset(spans, 0, (size_t)numbers() * 4);
  }

  void meet(FgemmFn* product, const void* x, int64_t m, const float* spans, int64_t first, int64_t begin, int64_t end, Fetch fetch) const {
    char* out = (char*)op_.out + (first * op_.n + begin * kPanel) * element_size(op_.out_dtype);
    const FgemmArgs args = {x, stride_, m, kp_, panel(begin), end - begin, group_, false, scratch<char>(kPanelSlot, fgemm_scratch(kp_)),
                            {out, op_.n, op_.n - begin * kPanel, op_.out_dtype, bias_ ? bias_ + begin * kPanel : nullptr}, spans, fetch};
    product(&args);
  }

  // A row that fixed-point numbers cannot hold, as floats.
  void repair(int64_t row, int64_t begin, int64_t end) const {
    float* v = scratch<float>(kRowSlot, kp_);
    read_row(op_.x, row, kp_, v);
    const Kernel& kernel = select_kernel(kernel_.family, active_isa(), INT64_MAX, kF32);
    meet((FgemmFn*)kernel.function, v, 1, nullptr, row, begin, end, {});
  }

  Linear op_;
  const Kernel& kernel_;
  FgemmFn* product_;
  const float* bias_;
  int64_t kp_, stride_, group_, m_ = 0;
  char* rows_ = nullptr;         // as the kernel wants them
  float* spans_ = nullptr;       // of fixed-point numbers
  uint8_t* special_ = nullptr;   // [m]: rows that these cannot hold
};

template <class F>
constexpr Family kFamily = kFamilies;
#define FAMILY(name, Format) \
  template <>                \
  constexpr Family kFamily<Format> = fgemm_##name;
LOWBIT_FORMATS(FAMILY)
LOWBIT_PLANES(FAMILY)

template <class F>
std::unique_ptr<Product> floats(const Linear& op, int64_t group, int64_t rows, const float* bias) {
  const int64_t kp = F::padded(op.x.columns, group);
  const Kernel& kernel = choose(kFamily<F>, rows, op.x.dtype);
  const int64_t span = F::kGrouped ? group : kBlock;  // of x in fixed point
  return std::make_unique<Floats>(op, kernel, &function_of<kFamily<F>>(kernel), kp, span, F::bytes(kp, group), bias);
}

}  // namespace

template <class F>
const LinearOp& float_op() {
  static constexpr LinearOp kOp = linear_op<F>(false, 0, 4, floats<F>);
  return kOp;
}

template <class F>
void linear_float(const Linear& op, int64_t group) {
  if (op.x.rows > 0 && op.n > 0) run(float_op<F>(), op, group, kMostRows);
}

#define INSTANCE(name, Format)                  \
  template const LinearOp& float_op<Format>();  \
  template void linear_float<Format>(const Linear& op, int64_t group);
LOWBIT_FORMATS(INSTANCE)
LOWBIT_PLANES(INSTANCE)

}  // namespace lowbit
