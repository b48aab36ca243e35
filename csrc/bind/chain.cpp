// lowbit::chain on the CPU. The program, its checks and their words are those of runtime/chain.py.
#include "linear/chain.h"

#include <vector>

#include "bind/checks.h"

namespace lowbit {
namespace {

constexpr const char* kOp = "chain";
enum Field { kKind, kX, kXFirst, kXCount, kY, kYFirst, kFunction, kTimes, kPlus, kWeight, kBias, kLinear, kGroup, kDtype, kColumns, kKept, kFields };
constexpr int64_t kMostSteps = 256;
// In the order of LINEARS of runtime/chain.py.
#define LINES(name, Format) &float_op<Format>(),
const LinearOp* const kLinears[] = {&kS8S8, &kS8S8Rotated, &kS8U4Nested, &kS8U4NestedRotated, &kS8Ternary,
                                    LOWBIT_FORMATS(LINES) LOWBIT_PLANES(LINES)};
#undef LINES
constexpr int64_t kLinearCount = sizeof(kLinears) / sizeof(kLinears[0]);
constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};  // in the order of Dtype

// Reads the program into steps, and owns what these point to.
class Program {
 public:
  Program(const std::vector<Tensor>& rows, const std::vector<Tensor>& constants, const std::vector<int64_t>& numbers, const std::vector<double>& eps)
      : constants_(constants), numbers_(numbers), eps_(eps) {
    const int64_t steps = (int64_t)numbers.size() / kFields;
    EXPECT(kOp, !rows.empty(), "at least one tensor of rows, got none");
    EXPECT(kOp, numbers.size() % kFields == 0 && steps >= 1 && steps <= kMostSteps, "a program of 1 to ", kMostSteps, " steps of ", (int)kFields,
           " numbers, got ", numbers.size(), " numbers");
    EXPECT(kOp, (int64_t)eps.size() == steps, "an eps for each of ", steps, " steps, got ", eps.size());
    for (const Tensor& x : rows) check_rows(x, rows[0]);
    count_ = 1;
    for (int64_t d = 0; d + 1 < rows[0].dim(); ++d) count_ *= rows[0].size(d);
    for (const Tensor& c : constants) check_tensors(kOp, aoti_torch_device_type_cpu(), {{"constants", c}});
    for (const Tensor& c : constants) check_memory(kOp, {{"constants", c}});
    held_.reserve(rows.size() + constants.size());
    for (const Tensor& x : rows) take(x);
    for (int64_t step = 0; step < steps; ++step) read(step, rows[0]);
    EXPECT(kOp, results_.size() == 1 || results_.size() == 2, "one or two steps that are kept, got ", results_.size());
  }

  std::tuple<Tensor, Tensor> run() {
    if (count_ > 0) run_chain({count_, values_.data(), (int64_t)values_.size(), steps_.data(), (int64_t)steps_.size()});
    if (results_.size() == 2) return {results_[0], results_[1]};
    const int64_t none = 0, step = 1;
    return {results_[0], empty(&none, &step, 1, shim_dtype(results_[0].scalar_type()))};
  }

 private:
  int64_t field(int64_t step, Field which) const { return numbers_[step * kFields + which]; }

  static void check_rows(const Tensor& x, const Tensor& first) {
    const Arguments arguments = {{"rows", first}, {"rows", x}};
    check_tensors(kOp, aoti_torch_device_type_cpu(), arguments);
    EXPECT(kOp, is_float(x.scalar_type()), "rows in float32, bfloat16 or float16, got ", name(x.scalar_type()));
    EXPECT(kOp, x.dim() >= 1, "rows with at least one dimension, got 0 dimensions");
    bool same = x.dim() == first.dim();
    for (int64_t d = 0; same && d + 1 < x.dim(); ++d) same = x.size(d) == first.size(d);
    EXPECT(kOp, same, "rows of the leading sizes of the first, ", shape(first), ", got ", shape(x));
    check_memory(kOp, {{"rows", x}});
  }

  void take(const Tensor& x) {
    const Rows rows = x.numel() ? rows_of(x) : Rows{x, {nullptr, 0, 0, x.size(x.dim() - 1), dtype_of(x.scalar_type()), {}, 0}};
    held_.push_back(rows.owner);
    values_.push_back({const_cast<void*>(rows.matrix.data), rows.matrix.stride, rows.matrix.columns, rows.matrix.dtype});
  }

  int64_t within(int64_t step, const char* what, int64_t value, int64_t from, int64_t to) const {
    EXPECT(kOp, from <= value && value < to, what, " from ", from, " to ", to - 1, " in step ", step, ", got ", value);
    return value;
  }

  Slice slice(int64_t step, Field value, Field first, int64_t count) const {
    const int64_t which = within(step, "a value", field(step, value), 0, (int64_t)values_.size()), begin = field(step, first);
    const int64_t columns = values_[which].columns;
    EXPECT(kOp, count >= 1 && begin >= 0 && count <= columns && begin <= columns - count, "columns of the ", columns, " there are in step ", step,
           ", got ", count, " from ", begin);
    return {which, begin, count};
  }

  const Tensor& constant(int64_t step, int64_t index) const {
    return constants_[within(step, "a constant", index, 0, (int64_t)constants_.size())];
  }

  // One number a column; none where the program says -1.
  Row row(int64_t step, Field which, int64_t count) {
    if (field(step, which) == -1) return {};
    const Tensor& given = constant(step, field(step, which));
    EXPECT(kOp, is_float(given.scalar_type()), "a constant in float32, bfloat16 or float16 in step ", step, ", got ", name(given.scalar_type()));
    EXPECT(kOp, given.dim() == 1 && given.size(0) == count, "a constant of shape (", count, ",) in step ", step, ", got ", shape(given));
    held_.push_back(dense(given));
    return {held_.back().const_data_ptr(), dtype_of(given.scalar_type())};
  }

  const int8_t* weight(int64_t step, const LinearOp& op, int64_t group, int64_t k, int64_t n) {
    const Tensor& w = constant(step, field(step, kWeight));
    EXPECT(kOp, op.least_group == 0 || is_group(group, op.least_group), "group in ", groups_from(op.least_group), " in step ", step, ", got ",
           group);
    EXPECT(kOp, op.most_k == 0 || k <= op.most_k, "K from 1 to ", op.most_k, " in step ", step, ", got ", k);
    const int64_t panels = n / kPanel + (n % kPanel != 0), bytes = op.bytes(op.padded(k, group), group);
    EXPECT(kOp, w.scalar_type() == ScalarType::Char && w.dim() == 2 && w.size(0) == panels && w.size(1) == bytes, "a weight of ", panels,
           " panels of ", bytes, " bytes in step ", step, ", got ", name(w.scalar_type()), " of ", shape(w));
    held_.push_back(dense(w));
    if ((uintptr_t)held_.back().const_data_ptr() % 4) held_.back() = torch::stable::clone(held_.back());  // for the sums and scales in it
    const int8_t* data = (const int8_t*)held_.back().const_data_ptr();
    EXPECT(kOp, op.rows_end(data, n, k, group), "a weight packed for n = ", n, " in step ", step, ", got one of more rows");
    EXPECT(kOp, op.rotated || op.columns_end(data, k, group), "a weight packed for K = ", k, " in step ", step, ", got one of more columns");
    return data;
  }

  void read(int64_t step, const Tensor& like) {
    Step made = {};
    made.kind = (StepKind)within(step, "a kind", field(step, kKind), 0, kApply + 1);
    const int64_t count = field(step, kXCount);
    made.x = slice(step, kX, kXFirst, count);
    made.y = field(step, kY) == -1 && made.kind != kSum ? Slice{-1, 0, 0} : slice(step, kY, kYFirst, count);
    made.prologue.function = (Function)within(step, "a function", field(step, kFunction), 0, kLayerNorm + 1);
    EXPECT(kOp, eps_[step] >= 0, "eps of at least 0 in step ", step, ", got ", eps_[step]);
    made.prologue.eps = (float)eps_[step];
    made.prologue.times = row(step, kTimes, count);
    made.prologue.plus = row(step, kPlus, count);
    const bool plain = made.prologue.function == kIdentity && !made.prologue.times.data && !made.prologue.plus.data;
    EXPECT(kOp, made.kind != kSum || plain, "a sum without a prologue in step ", step, ", got one with");
    const int64_t op = within(step, "a linear op", field(step, kLinear), 0, kLinearCount);
    const int64_t n = field(step, kColumns), type = within(step, "a dtype", field(step, kDtype), 0, 3);
    EXPECT(kOp, n >= 1 && (made.kind == kProduct || n == count), made.kind == kProduct ? "at least one column" : "as many columns as it reads",
           " in step ", step, ", got ", n);
    check_result(kOp, count_, n);
    if (made.kind == kProduct) {
      made.op = kLinears[op];
      made.group = field(step, kGroup);
      made.w = weight(step, *made.op, made.group, count, n);
      const Row bias = row(step, kBias, n);
      made.bias = bias.data;
      made.bias_dtype = bias.dtype;
    }
    made.out = (int64_t)values_.size();
    values_.push_back({nullptr, n, n, (Dtype)type});
    if (field(step, kKept)) {
      results_.push_back(allocate(like, n, kTypes[type]));
      values_.back().data = results_.back().mutable_data_ptr();
    }
    steps_.push_back(made);
  }

  const std::vector<Tensor>& constants_;
  const std::vector<int64_t>& numbers_;
  const std::vector<double>& eps_;
  int64_t count_ = 0;
  std::vector<Tensor> held_, results_;
  std::vector<Value> values_;
  std::vector<Step> steps_;
};

std::tuple<Tensor, Tensor> op_chain(std::vector<Tensor> rows, std::vector<Tensor> constants, std::vector<int64_t> program, std::vector<double> eps) {
  return Program(rows, constants, program, eps).run();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) { m.impl("chain", TORCH_BOX(&op_chain)); }

}  // namespace lowbit
