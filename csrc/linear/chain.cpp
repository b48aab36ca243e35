#include "linear/chain.h"

#include <vector>

#include "linear/job.h"
#include "linear/scratch.h"
#include "linear/team.h"

namespace lowbit {
namespace {

constexpr int64_t kMostRows = 512;  // of a block: weights come from memory once a block, values stay in cache from step to step

// What a step works on in one block of rows.
struct Work {
  StepKind kind;
  std::unique_ptr<Product> product;
  Matrix x, y;  // of the other kinds; y: of a sum
  void* out;
  int64_t out_stride;
  Dtype out_dtype;
};

// A block's view of the values: pointers to the first row of each.
class Block {
 public:
  Block(const Chain& chain, int64_t first, int64_t rows, char* memory) : chain_(chain), first_(first), rows_(rows), memory_(memory) {}

  // Bytes of the values in scratch, for `rows` rows.
  static int64_t bytes(const Chain& chain, int64_t rows) {
    int64_t total = 0;
    for (int64_t i = 0; i < chain.value_count; ++i) {
      if (chain.values[i].data == nullptr) total += value_bytes(chain.values[i], rows);
    }
    return total;
  }

  Matrix matrix(const Slice& slice) const {
    const Value& value = chain_.values[slice.value];
    return {at(slice), stride(value), rows_, slice.count, value.dtype, {}, 0};
  }

  // The rows that a step reads, with its prologue.
  Matrix input(const Step& step) const {
    Matrix x = matrix(step.x);
    x.prologue = step.prologue;
    if (step.kind != kSum && step.y.value >= 0) {
      x.prologue.times = {at(step.y), chain_.values[step.y.value].dtype};
      x.times_stride = stride(chain_.values[step.y.value]);
    }
    return x;
  }

  void* at(const Slice& slice) const {
    const Value& value = chain_.values[slice.value];
    char* data = value.data ? (char*)value.data + first_ * value.stride * element_size(value.dtype) : memory_;
    for (int64_t i = 0; value.data == nullptr && i < slice.value; ++i) {
      if (chain_.values[i].data == nullptr) data += value_bytes(chain_.values[i], rows_);
    }
    return data + slice.first * element_size(value.dtype);
  }
  static int64_t stride(const Value& value) { return value.data ? value.stride : value.columns; }
  int64_t rows() const { return rows_; }

 private:
  static int64_t value_bytes(const Value& value, int64_t rows) { return round_up(rows * value.columns * element_size(value.dtype), 64); }

  const Chain& chain_;
  int64_t first_, rows_;
  char* memory_;
};

// Rows begin..end of a sum or of a prologue alone.
void apply(const Work& work, int64_t begin, int64_t end) {
  const RowKernels& kernels = row_kernels();
  const int64_t k = work.x.columns, kp = round_up(k, kBlock);
  float* v = scratch<float>(kRowSlot, kp);
  for (int64_t i = begin; i < end; ++i) {
    load_row(kernels, work.x, i, kp, v);
    if (work.kind == kSum) kernels.prologue({kIdentity, 0, {}, {row_of(work.y, i), work.y.dtype}}, k, kp, v);
    kernels.save(v, k, work.out_dtype, (char*)work.out + i * work.out_stride * element_size(work.out_dtype));
  }
}

// Steps from `first` on up to the next product: what happens to a row does not depend on other rows.
int64_t next_product(const Chain& chain, int64_t first) {
  while (first < chain.step_count && chain.steps[first].kind != kProduct) ++first;
  return first;
}

int64_t parts_of_rows(int64_t rows, int64_t tasks) { return rows < 8 * tasks ? rows : 8 * tasks; }

// The panels that a thread multiplies first, and what it fetches of them while it waits for the row to be ready: a few lines at a time, so that it
// sees at once when the row is.
struct Ahead {
  const char* begin;
  int64_t bytes;
  void operator()(int64_t turn) const {
    for (int64_t at = turn * kTurn; at < bytes && at < (turn + 1) * kTurn; at += kLine) __builtin_prefetch(begin + at, 0, 2);
  }
  static constexpr int64_t kTurn = 8 * kLine, kMost = 1 << 18;  // a quarter of an L2 of 1 MB
};

int64_t shares_of(const Product& product, int64_t rows, int64_t tasks) {
  const int64_t unit = product.unit(tasks), most = (product.panels() + unit - 1) / unit, wanted = tasks == 1 ? 1 : tasks * parts_for(rows);
  return most < wanted ? most : wanted;
}

// Weights are read once where there are few rows; later parts of the panels are fetched by the kernels.
Ahead ahead_of(const Product& product, int64_t rows, int64_t tasks, const Member& member) {
  const int64_t shares = shares_of(product, rows, tasks), first = member.own(shares, 1).begin;
  if (parts_for(rows) > 1 || first == shares) return {nullptr, 0};
  const Range range = share(product.panels(), shares, first, product.unit(tasks));
  const int64_t bytes = (range.end - range.begin) * product.panel_bytes();
  return {(const char*)product.panel(range.begin), bytes < Ahead::kMost ? bytes : Ahead::kMost};
}

// One thread's way through a block: rows up to and into the codes of a product, then panels of the product, and so on.
void go_through(const Chain& chain, const std::vector<Work>& works, int64_t rows, int64_t tasks, Member& member) {
  for (int64_t step = 0; step < chain.step_count;) {
    const int64_t product = next_product(chain, step);
    const bool last = product == chain.step_count;
    const int64_t parts = parts_of_rows(rows, tasks);
    const Ahead ahead = last ? Ahead{nullptr, 0} : ahead_of(*works[product].product, rows, tasks, member);
    member.each(parts, [&](int64_t part) {
      const Range range = share(rows, parts, part, 1);
      for (int64_t i = step; i < product; ++i) apply(works[i], range.begin, range.end);
      if (!last) works[product].product->prepare(0, range.begin, range.end);
    }, ahead);
    step = product + 1;
    if (last) return;
    const Product& multiplied = *works[product].product;
    const int64_t shares = shares_of(multiplied, rows, tasks), after = next_product(chain, step);
    const Ahead later = after == chain.step_count ? Ahead{nullptr, 0} : ahead_of(*works[after].product, rows, tasks, member);
    member.each(shares, [&](int64_t part) {
      const Range range = share(multiplied.panels(), shares, part, multiplied.unit(tasks));
      if (range.begin < range.end) multiplied.multiply(0, range.begin, range.end, {true, later.begin});
    }, later);
  }
}

struct Size {
  int64_t kp;      // the largest of any product
  int64_t work;    // of all products
  int64_t bias;    // numbers of all biases, padded to panels
  int64_t phases;  // two a product, and one for what follows the last
};

Size size_of(const Chain& chain) {
  Size size = {kBlock, 0, 0, 1};
  for (int64_t i = 0; i < chain.step_count; ++i) {
    const Step& step = chain.steps[i];
    if (step.kind != kProduct) continue;
    const int64_t kp = step.op->padded(step.x.count, step.group), n = chain.values[step.out].columns;
    size.kp = kp > size.kp ? kp : size.kp;
    size.work += step.op->work(n, step.x.count, step.group, chain.rows);
    size.bias += round_up(n, kPanel);
    size.phases += 2;
  }
  return size;
}

// `bias`: memory for all of them.
std::vector<Work> works_of(const Chain& chain, const Block& block, float* bias) {
  std::vector<Work> works((size_t)chain.step_count);
  int64_t room = 0;
  for (int64_t i = 0; i < chain.step_count; ++i) {
    const Step& step = chain.steps[i];
    const Value& out = chain.values[step.out];
    Work& work = works[i];
    work.kind = step.kind;
    work.x = block.input(step);
    if (step.kind == kSum) work.y = block.matrix(step.y);
    work.out = block.at({step.out, 0, out.columns});
    work.out_stride = Block::stride(out);
    work.out_dtype = out.dtype;
    if (step.kind != kProduct) continue;
    const Linear op = {work.x, step.w, out.columns, nullptr, kF32, work.out, out.dtype};
    work.product = step.op->product(op, step.group, chain.rows, widened(step.bias, step.bias_dtype, out.columns, bias));
    bias += round_up(out.columns, kPanel);
    const int64_t needed = work.product->room(block.rows());
    room = needed > room ? needed : room;
  }
  char* memory = scratch<char>(kCodesSlot, room);  // of one product after the other
  for (const Work& work : works) {
    if (work.product) work.product->place(block.rows(), memory);
  }
  return works;
}

}  // namespace

void run_chain(const Chain& chain) {
  const Size size = size_of(chain);
  const int64_t tasks = tasks_for(size.work);
  const int64_t fit = block_rows(size.kp), most = fit < kMostRows ? fit : kMostRows, step = chain.rows < most ? chain.rows : most;
  PhaseCounts* counts = scratch<PhaseCounts>(kPhaseSlot, size.phases * tasks);
  float* bias = scratch<float>(kBiasSlot, size.bias);
  char* memory = scratch<char>(kChainSlot, Block::bytes(chain, step));
  for (int64_t first = 0; first < chain.rows; first += step) {
    const Block block(chain, first, chain.rows - first < step ? chain.rows - first : step, memory);
    const std::vector<Work> works = works_of(chain, block, bias);
    together(tasks, size.phases, counts, [&](Member& member) { go_through(chain, works, block.rows(), tasks, member); });
  }
}

}  // namespace lowbit
