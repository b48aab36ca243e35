// The work of one call: rounds of packed key heads, blocks of query rows, ranges of keys where there are too few blocks for the threads.
#include "attention/attention.h"

#include <math.h>

#include <atomic>

#include "attention/seen.h"
#include "common/convert.h"
#include "common/kernels.h"
#include "linear/parallel.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

constexpr int64_t kRound = 16 << 20;   // bytes of packed keys and values at a time
constexpr int64_t kSmall = 1 << 18;    // products worth a second thread
constexpr int64_t kLeastKeys = 128;    // of a range
constexpr int64_t kMostCodeRows = 48;  // query rows of a key head that read int8 codes; more are worth floats for the other kernels

// The query rows of one key head, position by position, so that limits ascend and a block of rows shares its keys.
struct Job {
  const Attention& call;
  const AttentionKernels& kernels;
  const int64_t* seen;  // keys of each sequence, up to the last that is not hidden
  int64_t group, rows, block_rows, blocks, ranges, range_keys;
  int64_t packed_bytes, block_count;  // of a key head

  int64_t heads() const { return call.batch * call.groups; }
  int64_t columns() const { return value_columns(&call); }
  int64_t rows_of(int64_t block) const { return rows - block * block_rows < block_rows ? rows - block * block_rows : block_rows; }
  int64_t tasks_of_head() const { return blocks * ranges; }
  // floats of a partial result: totals, sums, exponents
  int64_t partial() const { return held_rows() * (columns() + 2); }
  int64_t held_rows() const { return round_up(block_rows, 32); }  // kernels may store whole tiles
};

KeyValues source(const Job& job, int64_t head, const char* packed) {
  const Attention& call = job.call;
  const int64_t b = head / call.groups, g = head % call.groups;
  const auto head_of = [&](const Heads& x, int64_t size) { return (const char*)x.data + (b * x.batch + g * x.head) * size; };
  const int64_t size = has_codes(call) ? 1 : element_size(call.dtype);
  KeyValues from = {head_of(call.k, size), head_of(call.v, size), packed, nullptr, nullptr};
  if (has_codes(call)) {
    from.k_scale = (const float*)head_of(call.k_scale, 4);
    from.v_scale = (const float*)head_of(call.v_scale, 4);
  }
  return from;
}

struct Place {
  int64_t batch, head, position, left;  // heads of the group at this position

  void next(int64_t group) {
    ++head;
    if (--left > 0) return;
    head -= left = group;
    ++position;
  }
};

Place place(const Job& job, int64_t head, int64_t row) {
  const int64_t member = row % job.group;
  return {head / job.call.groups, head % job.call.groups * job.group + member, row / job.group, job.group - member};
}

void query_rows(const Job& job, int64_t head, int64_t first, int64_t m, QueryRow* rows) {
  const Attention& call = job.call;
  Place p = place(job, head, first);
  for (int64_t i = 0; i < m; ++i, p.next(job.group)) {
    const char* mask = (const char*)call.mask.data;
    if (mask) mask += (p.batch * call.mask.batch + p.head * call.mask.head + p.position * call.mask.row) * mask_size(call.mask.kind, call.mask.dtype);
    const int64_t seen = job.seen[p.batch];
    rows[i] = {offset(call.q.data, p.batch * call.q.batch + p.head * call.q.head + p.position * call.q.row, call.dtype), mask,
               call.causal && p.position + 1 < seen ? p.position + 1 : seen};
  }
}

void write_row(const Job& job, const Place& p, const float* total, float sum) {
  const Attention& call = job.call;
  const int64_t index = (p.batch * call.rows + p.position) * call.heads + p.head;
  job.kernels.divide(total, sum, call.ev, call.dtype, (char*)call.out + index * call.ev * element_size(call.dtype));
}

// One block of rows against one range of keys; results go to `partial`, or out if the range is all.
void run_block(const Job& job, int64_t head, int64_t task, const char* packed, float* partial) {
  const Attention& call = job.call;
  const int64_t index = job.blocks - 1 - task / job.ranges, range = task % job.ranges;  // under a causal mask the last blocks are the longest
  const int64_t top = index * job.block_rows, m = job.rows_of(index);
  QueryRow rows[kMostRows];
  query_rows(job, head, top, m, rows);
  const int64_t first = range * job.range_keys, stop = first + job.range_keys < call.keys ? first + job.range_keys : call.keys;
  const int64_t scratch_bytes = round_up(job.kernels.scratch_bytes(&call), 64);
  char* memory = scratch<char>(kAttentionSlot, scratch_bytes + job.partial() * 4);
  float* total = partial ? partial : (float*)(memory + scratch_bytes);
  float* sum = total + job.held_rows() * job.columns();
  const AttentionBlock block = {&call, rows, m, source(job, head, packed), first, stop, memory, total, sum, sum + job.held_rows()};
  job.kernels.block(&block);
  if (partial) return;
  Place p = place(job, head, top);
  for (int64_t i = 0; i < m; ++i, p.next(job.group)) write_row(job, p, total + i * job.columns(), sum[i]);
}

// Adds up the ranges of a block, brought to the largest exponent by powers of two.
void merge(const Job& job, int64_t head, int64_t index, float* partials) {
  const int64_t top = index * job.block_rows, m = job.rows_of(index);
  const int64_t columns = job.columns(), sums = job.held_rows() * columns, exponents = sums + job.held_rows();
  for (int64_t i = 0; i < m; ++i) {
    float highest = -INFINITY, sum = 0;
    for (int64_t r = 0; r < job.ranges; ++r) {
      const float exponent = partials[r * job.partial() + exponents + i];
      if (exponent > highest) highest = exponent;
    }
    float* total = partials + i * columns;
    for (int64_t r = 0; r < job.ranges; ++r) {
      float* part = partials + r * job.partial();
      const float exponent = part[exponents + i];
      const float factor = exponent == highest ? 1.0f : exp2f(exponent - highest);  // integral: exact
      sum += part[sums + i] * factor;
      job.kernels.scale(part + i * columns, columns, factor);
      for (int64_t j = 0; r > 0 && j < columns; ++j) total[j] += part[i * columns + j];
    }
    write_row(job, place(job, head, top + i), total, sum);
  }
}

// Threads take the next task when they are done with one: blocks differ in length.
template <class F>
void spread(int64_t threads, int64_t tasks, const F& run) {
  std::atomic<int64_t> next{0};
  parallel(threads < tasks ? threads : tasks, [&](int64_t) {
    for (int64_t task = next++; task < tasks; task = next++) run(task);
  });
}

// Packed or widened keys and values: in scratch, unless they are so long that the thread should not keep that much.
struct Memory {
  char* data = nullptr;
  bool own = false;

  Memory(Slot slot, int64_t bytes) : own(bytes > kRound) {
    if (bytes == 0) return;
    data = own ? (char*)aligned_alloc(4096, (size_t)round_up(bytes, 4096)) : scratch<char>(slot, bytes);
    if (data == nullptr) throw std::bad_alloc();
  }
  Memory(const Memory&) = delete;
  ~Memory() {
    if (own) free(data);
  }
};

void run_round(const Job& job, int64_t threads, int64_t head, int64_t heads) {
  const Attention& call = job.call;
  const Memory memory(kPackedKeysSlot, heads * job.block_count * job.packed_bytes);
  char* const packed = memory.data;
  const auto packed_of = [&](int64_t h) { return packed ? packed + h * job.block_count * job.packed_bytes : nullptr; };
  if (packed) {
    spread(threads, heads * job.block_count, [&](int64_t task) {
      const int64_t h = task / job.block_count, first = task % job.block_count * kKeyBlock;
      const KeyValues from = source(job, head + h, nullptr);
      const int64_t left = job.seen[(head + h) / call.groups] - first, count = left < kKeyBlock ? left : kKeyBlock;
      if (count > 0) job.kernels.pack(&call, &from, first, count, packed_of(h) + first / kKeyBlock * job.packed_bytes);
    });
  }
  const int64_t tasks = job.tasks_of_head();
  float* partials = job.ranges > 1 ? scratch<float>(kPartialSlot, heads * tasks * job.partial()) : nullptr;
  spread(threads, heads * tasks, [&](int64_t task) {
    const int64_t h = task / tasks, block = task % tasks;
    // Ranges of a block lie side by side, blocks in ascending order.
    const int64_t slot = (h * job.blocks + job.blocks - 1 - block / job.ranges) * job.ranges + block % job.ranges;
    run_block(job, head + h, block, packed_of(h), partials ? partials + slot * job.partial() : nullptr);
  });
  if (partials == nullptr) return;
  for (int64_t i = 0; i < heads * job.blocks; ++i) merge(job, head + i / job.blocks, i % job.blocks, partials + i * tasks / job.blocks * job.partial());
}

void sdpa_of_seen(const Attention& call, const int64_t* seen) {
  const int64_t group = call.heads / call.groups, rows = group * call.rows;
  if (call.batch * rows == 0 || call.ev == 0) return;
  // Integer tricks give bfloat16 queries a sign, not a zero: for a scale of 0 the kernels of all dtypes serve.
  const Dtype dtype = call.scale == 0 ? kF16 : call.dtype;
  const AttentionKernels& kernels = has_codes(call) ? chosen<attention_codes>(rows, dtype) : chosen<attention>(rows, dtype);
  Job job = {call, kernels, seen, group, rows, rows < kMostRows ? rows : kMostRows, 0, 1, call.keys, kernels.packed_bytes(&call), 0};
  job.block_count = (call.keys + kKeyBlock - 1) / kKeyBlock;
  job.blocks = (rows + job.block_rows - 1) / job.block_rows;
  const int64_t products = call.batch * call.heads * call.rows * call.keys * (call.e + call.ev);
  const int64_t threads = products < kSmall ? 1 : thread_count();
  const int64_t tasks = job.heads() * job.blocks, wanted = 4 * threads;
  if (threads > 1 && tasks < wanted) {
    const int64_t most = (call.keys + kLeastKeys - 1) / kLeastKeys, ranges = (wanted + tasks - 1) / tasks;
    job.ranges = ranges < most ? ranges : most < 1 ? 1 : most;
    job.range_keys = round_up((call.keys + job.ranges - 1) / job.ranges, kKeyBlock);
    job.ranges = call.keys ? (call.keys + job.range_keys - 1) / job.range_keys : 1;
  }
  const int64_t bytes = job.block_count * job.packed_bytes, fitting = bytes ? kRound / bytes : job.heads();
  const int64_t step = fitting < 1 ? 1 : fitting;
  for (int64_t head = 0; head < job.heads(); head += step) {
    run_round(job, threads, head, job.heads() - head < step ? job.heads() - head : step);
  }
}

// Keys first ... first+count-1 of one head of x, n wide: codes times their scales, rounded once.
void widen_codes(const int8_t* codes, int64_t stride, const float* scale, int64_t count, int64_t n, Dtype dtype, char* out) {
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t i = 0; i < n; ++i) store_float(out, dtype, j * n + i, (float)codes[j * stride + i] * scale[j]);
  }
}

void sdpa_of_floats(const Attention& call, const int64_t* seen) {
  const int64_t size = element_size(call.dtype), heads = call.batch * call.groups, blocks = (call.keys + kKeyBlock - 1) / kKeyBlock;
  const int64_t k_bytes = round_up(heads * call.keys * call.e * size, 64);
  const Memory memory(kWideKeysSlot, k_bytes + heads * call.keys * call.ev * size);
  Attention floats = call;
  floats.k = {memory.data, call.groups * call.keys * call.e, call.keys * call.e, call.e};
  floats.v = {memory.data + k_bytes, call.groups * call.keys * call.ev, call.keys * call.ev, call.ev};
  floats.k_scale = floats.v_scale = {};
  spread(thread_count(), heads * blocks, [&](int64_t task) {
    const int64_t head = task / blocks, b = head / call.groups, g = head % call.groups, first = task % blocks * kKeyBlock;
    const int64_t count = call.keys - first < kKeyBlock ? call.keys - first : kKeyBlock;
    const auto widen = [&](const Heads& x, const Heads& scale, int64_t n, const Heads& to) {
      widen_codes((const int8_t*)x.data + b * x.batch + g * x.head + first * x.row, x.row,
                  (const float*)scale.data + b * scale.batch + g * scale.head + first, count, n, call.dtype,
                  (char*)to.data + (head * call.keys + first) * n * size);
    };
    widen(call.k, call.k_scale, call.e, floats.k);
    widen(call.v, call.v_scale, call.ev, floats.v);
  });
  sdpa_of_seen(floats, seen);
}

}  // namespace

void sdpa(const Attention& call) {
  int64_t* seen = scratch<int64_t>(kSeenSlot, call.batch);
  Attention shorter = call;
  shorter.keys = 0;
  for (int64_t b = 0; b < call.batch; ++b) {
    seen[b] = call.mask.batch || b == 0 ? seen_keys(call, b) : seen[0];
    if (seen[b] > shorter.keys) shorter.keys = seen[b];
  }
  if (has_codes(call) && call.heads / call.groups * call.rows > kMostCodeRows) sdpa_of_floats(shorter, seen);
  else sdpa_of_seen(shorter, seen);
}

}  // namespace lowbit
