// Threads, and the choice between the algorithms.
#include <math.h>
#include <unistd.h>

#include "common/convert.h"
#include "common/export.h"
#include "common/kernels.h"
#include "linear/parallel.h"
#include "linear/scratch.h"
#include "softmax/softmax.h"

namespace lowbit {
namespace {

constexpr int64_t kMostKept = 2048;  // rows of a block of columns: half a second cache
int64_t threshold = 0;  // floats; 0: not set yet
int forced = 0;         // passes; 0: by the threshold

// A row whose input and output exceed twice the second cache is gone from it when the next pass starts.
int64_t current_threshold() {
  if (threshold == 0) {
    const long cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
    threshold = 2 * (cache > 0 ? cache : 2 << 20) / 8;
  }
  return threshold;
}

const SoftmaxKernels& kernels(const Softmax& op) { return chosen<softmax>(op.outer.count, op.spec.dtype); }

// Pointers to the first element of row `index`.
SoftmaxRow row_at(const Softmax& op, int64_t index) {
  int64_t x = 0, mask = 0, out = 0;
  for (int64_t d = op.outer.dims - 1; d >= 0; --d) {
    const int64_t i = index % op.outer.size[d];
    index /= op.outer.size[d];
    x += i * op.outer.x[d];
    mask += i * op.outer.mask[d];
    out += i * op.outer.out[d];
  }
  return {(const char*)op.x + x, (const char*)op.mask + mask, (char*)op.out + out, nullptr, op.n};
}

bool keeps_apart(const SoftmaxSpec& spec) { return !spec.log && !spec.two_pass && spec.out_dtype != kF32; }

float* kept_for(const SoftmaxSpec& spec, const SoftmaxRow& row) {
  return keeps_apart(spec) ? scratch<float>(kSoftmaxSlot, row.n + 64) : (float*)row.out;
}

// Runs along the innermost outer dimension have equal distances.
void some_rows(const Softmax& op, Range range) {
  const SoftmaxOuter& outer = op.outer;
  const int64_t last = outer.dims - 1, run = outer.dims ? outer.size[last] : 1;
  for (int64_t r = range.begin; r < range.end;) {
    const int64_t left = run - r % run, count = left < range.end - r ? left : range.end - r;
    SoftmaxRow row = row_at(op, r);
    row.kept = kept_for(op.spec, row);
    const SoftmaxRows rows = {row, count, outer.dims ? outer.x[last] : 0, outer.dims ? outer.mask[last] : 0, outer.dims ? outer.out[last] : 0};
    kernels(op).rows(&op.spec, &rows);
    r += count;
  }
}

SoftmaxRow part_of(const Softmax& op, const SoftmaxRow& row, Range range) {
  const SoftmaxSpec& spec = op.spec;
  const int64_t mask_bytes = mask_size(spec.mask, spec.mask_dtype);
  return {(const char*)row.x + range.begin * element_size(spec.dtype), (const char*)row.mask + (spec.mask_splat ? 0 : range.begin * mask_bytes),
          (char*)row.out + range.begin * element_size(spec.out_dtype), row.kept ? row.kept + range.begin : nullptr, range.end - range.begin};
}

SoftmaxSum merged(const SoftmaxSum* sums, int64_t count) {
  SoftmaxSum total = {0.0, -INFINITY};
  for (int64_t i = 0; i < count; ++i) total.n = sums[i].n > total.n ? sums[i].n : total.n;
  for (int64_t i = 0; i < count; ++i) total.m += ldexp(sums[i].m, (int)(sums[i].n - total.n));
  return total;
}

// One long row on several threads.
void split_row(const Softmax& op, SoftmaxRow row, int64_t tasks) {
  constexpr int64_t kUnit = 4096, kMostTasks = 256;
  const SoftmaxKernels& kernel = kernels(op);
  SoftmaxSum sums[kMostTasks];
  tasks = tasks < kMostTasks ? tasks : kMostTasks;
  row.kept = kept_for(op.spec, row);
  parallel(tasks, [&](int64_t t) {
    const SoftmaxRow part = part_of(op, row, share(op.n, tasks, t, kUnit));
    sums[t] = kernel.first(&op.spec, &part);
  });
  const SoftmaxSum total = merged(sums, tasks);
  if (needs_care(total)) {
    const SoftmaxRows whole = {row, 1, 0, 0, 0};
    return kernel.rows(&op.spec, &whole);
  }
  parallel(tasks, [&](int64_t t) {
    const SoftmaxRow part = part_of(op, row, share(op.n, tasks, t, kUnit));
    kernel.second(&op.spec, &part, sums[t], total);
  });
}

void all_rows(const Softmax& op) {
  const int64_t elements = op.outer.count * op.n, tasks = tasks_for(elements * 8);
  if (op.outer.count < tasks && op.n >= 1 << 15) {
    for (int64_t r = 0; r < op.outer.count; ++r) split_row(op, row_at(op, r), tasks);
    return;
  }
  parallel(tasks, [&](int64_t t) { some_rows(op, share(op.outer.count, tasks, t, 1)); });
}

// A row of a block that must be done with care, through rows of float32.
void careful_column(const Softmax& op, const SoftmaxColumns& block, int64_t c) {
  const SoftmaxSpec& spec = op.spec;
  SoftmaxSpec alone = spec;
  alone.dtype = alone.out_dtype = alone.mask_dtype = kF32;
  alone.mask_splat = alone.two_pass = false;
  const int64_t n = op.n, padded = n + 64;
  float* x = scratch<float>(kSoftmaxSlot, 3 * padded);
  float *mask = x + padded, *out = mask + padded;
  uint8_t* keep = (uint8_t*)mask;
  for (int64_t r = 0; r < n; ++r) {
    const int64_t m = r * block.mask_step + (spec.mask_splat ? 0 : c);
    x[r] = load_float(block.x, spec.dtype, r * block.x_step + c);
    if (spec.mask == kFloatMask) mask[r] = load_float(block.mask, spec.mask_dtype, m);
    if (spec.mask == kBoolMask) keep[r] = ((const uint8_t*)block.mask)[m];
  }
  const SoftmaxRows rows = {{x, mask, out, out, n}, 1, 0, 0, 0};
  kernels(op).rows(&alone, &rows);
  for (int64_t r = 0; r < n; ++r) store_float(block.out, spec.out_dtype, r * block.out_step + c, out[r]);
}

// Blocks of columns, numbered over all outer indices.
void some_blocks(const Softmax& op, Range range) {
  const SoftmaxSpec& spec = op.spec;
  const SoftmaxKernels& kernel = kernels(op);
  const int64_t blocks = (op.columns + kColumnBlock - 1) / kColumnBlock, mask_bytes = mask_size(spec.mask, spec.mask_dtype);
  uint64_t care[kMostBlocks];
  for (int64_t b = range.begin; b < range.end;) {
    const int64_t first = b % blocks, here = blocks - first < range.end - b ? blocks - first : range.end - b;
    const int64_t count = here < kMostBlocks ? here : kMostBlocks, begin = first * kColumnBlock, left = op.columns - begin;
    const SoftmaxRow row = row_at(op, b / blocks);
    float* kept = op.n <= kMostKept && !spec.log ? scratch<float>(kSoftmaxSlot, op.n * kColumnBlock) : nullptr;
    const SoftmaxColumns columns = {(const char*)row.x + begin * element_size(spec.dtype),
                                    (const char*)row.mask + (spec.mask_splat ? 0 : begin * mask_bytes),
                                    (char*)row.out + begin * element_size(spec.out_dtype),
                                    kept, op.x_step, op.mask_step, op.out_step, op.n, left < count * kColumnBlock ? left : count * kColumnBlock};
    kernel.columns(&spec, &columns, care);
    for (int64_t i = 0; i < count; ++i) {
      for (uint64_t bits = care[i]; bits; bits &= bits - 1) careful_column(op, columns, i * kColumnBlock + __builtin_ctzll(bits));
    }
    b += count;
  }
}

// Rows of one element, of which the innermost outer dimension may lie side by side.
void join_single_elements(Softmax& op) {
  SoftmaxSpec& spec = op.spec;
  SoftmaxOuter& outer = op.outer;
  const int64_t last = outer.dims - 1, mask_bytes = mask_size(spec.mask, spec.mask_dtype);
  if (outer.dims == 0) return;
  if (outer.x[last] != op.columns * element_size(spec.dtype) || outer.out[last] != op.columns * element_size(spec.out_dtype)) return;
  const bool splat = outer.mask[last] == 0 && (spec.mask_splat || op.columns == 1);
  const bool adjacent = outer.mask[last] == op.columns * mask_bytes && (!spec.mask_splat || op.columns == 1);
  if (spec.mask != kNoMask && !splat && !adjacent) return;
  spec.mask_splat = spec.mask != kNoMask && splat;
  op.columns *= outer.size[last];
  outer.count /= outer.size[last];
  --outer.dims;
}

}  // namespace

int softmax_passes(int64_t n, Dtype dtype, Dtype out_dtype) {
  if (forced) return forced;
  const int64_t kept = out_dtype == kF32 ? 0 : 4;
  return n * (element_size(dtype) + element_size(out_dtype) + kept) > 8 * current_threshold() ? 2 : 3;
}

void softmax_of(Softmax& op) {
  if (op.n == 0 || op.outer.count == 0 || op.columns == 0) return;
  if (op.n == 1) join_single_elements(op);
  if (op.columns == 1) {
    op.spec.two_pass = softmax_passes(op.n, op.spec.dtype, op.spec.out_dtype) == 2;
    return all_rows(op);
  }
  const int64_t blocks = op.outer.count * ((op.columns + kColumnBlock - 1) / kColumnBlock);
  const int64_t wanted = tasks_for(op.outer.count * op.columns * op.n * 8), tasks = wanted < blocks ? wanted : blocks;
  parallel(tasks, [&](int64_t t) { some_blocks(op, share(blocks, tasks, t, 1)); });
}

}  // namespace lowbit

// For runtime/kernels.py (ctypes). Rows of more bytes than this many floats in and out have, take two passes.
LOWBIT_EXPORT int64_t lowbit_softmax_threshold() { return lowbit::current_threshold(); }
LOWBIT_EXPORT void lowbit_set_softmax_threshold(int64_t floats) { lowbit::threshold = floats; }
LOWBIT_EXPORT void lowbit_force_softmax(int passes) { lowbit::forced = passes; }
LOWBIT_EXPORT int lowbit_softmax_passes(int64_t n, int dtype, int out_dtype) {
  return lowbit::softmax_passes(n, (lowbit::Dtype)dtype, (lowbit::Dtype)out_dtype);
}

// Rows without torch around them, for the benchmark.
LOWBIT_EXPORT void lowbit_softmax_rows(const void* x, void* out, int64_t rows, int64_t n, int dtype) {
  using namespace lowbit;
  const Dtype type = (Dtype)dtype;
  Softmax op;
  op.spec = {type, type, 1.0, kNoMask, kF32, false, false, false};
  op.x = x;
  op.mask = nullptr;
  op.out = out;
  op.n = n;
  op.columns = 1;
  op.outer.dims = 1;
  op.outer.count = op.outer.size[0] = rows;
  op.outer.x[0] = op.outer.out[0] = n * element_size(type);
  op.outer.mask[0] = 0;
  softmax_of(op);
}
