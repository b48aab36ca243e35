// lowbit::softmax in two passes over each row: the sum of the exponentials as a pair, then the exponentials again, scaled. Rows that are
// short enough keep their scores in registers between the passes. A team of threads has a row: a warp or a block where elements are
// adjacent; where rows lie side by side, the 8 threads of a block that are 32 apart, so that neighbours read neighbouring rows.
#include "cuda/exponent.h"
#include "cuda/kernels.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256, kSide = 32, kHeld = 8;  // held: elements that a thread has in registers
enum Team { kWarpTeam, kBlockTeam, kSideTeam };

// Of a team: how many threads, which of them this is, and the row (of those in a block) it has.
template <Team team>
struct Place {
  static constexpr int kSize = team == kWarpTeam ? 32 : team == kBlockTeam ? kThreads : kThreads / kSide, kRows = kThreads / kSize;
  LOWBIT_DEVICE static int member() { return team == kSideTeam ? thread_index() / kSide : thread_index() % kSize; }
  LOWBIT_DEVICE static int row() { return team == kSideTeam ? thread_index() % kSide : thread_index() / kSize; }
};

// Folds a value over a team with a commutative f; every member gets the result, in one order whatever the timing. All threads of the block
// take part. Needs kThreads values of shared memory.
template <Team team, class T, class F>
LOWBIT_DEVICE T fold(T value, T* shared, F f) {
  if (team != kSideTeam) {
    for (int mask = 16; mask; mask /= 2) value = f(value, shuffle_xor(value, mask));
  }
  if (team == kWarpTeam) return value;
  barrier();  // values of the last call may still be read
  shared[thread_index()] = value;
  barrier();
  const int own = team == kSideTeam ? thread_index() % 32 : 0;
  T all = shared[own];
  for (int warp = 1; warp < kThreads / 32; ++warp) all = f(all, shared[32 * warp + own]);
  return all;
}

struct Job {
  SoftmaxSpec spec;
  const void *x, *mask;
  void* out;
  int64_t n, columns, rows;  // rows: all of them; columns of them lie side by side
  int64_t x_step, mask_step, out_step;
  bool wide;  // rows are whole fours of adjacent elements, aligned for access at once
  int dims;
  int64_t size[kMostOuter], x_stride[kMostOuter], mask_stride[kMostOuter], out_stride[kMostOuter];  // bytes
};

// Where a row starts.
struct Row {
  const char *x, *mask;
  char* out;
};
LOWBIT_DEVICE Row find_row(const Job& job, int64_t index) {
  const int64_t column = job.columns > 1 ? index % job.columns : 0;  // divisions take longer than an element
  int64_t outer = job.columns > 1 ? index / job.columns : index, x = 0, mask = 0, out = 0;
  for (int d = job.dims - 1; d >= 0; --d) {
    const int64_t i = d ? outer % job.size[d] : outer;
    if (d) outer /= job.size[d];
    x += i * job.x_stride[d];
    mask += i * job.mask_stride[d];
    out += i * job.out_stride[d];
  }
  const SoftmaxSpec& spec = job.spec;
  if (job.columns > 1) {
    x += column * (spec.dtype == kF32 ? 4 : 2);
    out += column * (spec.out_dtype == kF32 ? 4 : 2);
    if (!spec.mask_splat) mask += column * (spec.mask == kBoolMask ? 1 : spec.mask_dtype == kF32 ? 4 : 2);
  }
  return {(const char*)job.x + x, (const char*)job.mask + mask, (char*)job.out + out};
}

LOWBIT_DEVICE float minus_infinity() { return bits_float(0xff800000u); }

LOWBIT_DEVICE float score(const Job& job, const Row& row, int64_t i, float x) {
  const float scale = (float)job.spec.scale;
  if (job.spec.mask == kNoMask) return x * scale;
  if (job.spec.mask == kBoolMask) return ((const uint8_t*)row.mask)[i * job.mask_step] ? x * scale : minus_infinity();
  return fmaf(x, scale, load_number(row.mask, job.spec.mask_dtype, i * job.mask_step));
}

// The same in double; a sum with a mask is rounded to float32 unless that overflows, see docs/arithmetic.md.
LOWBIT_DEVICE double careful_score(const Job& job, const Row& row, int64_t i) {
  const double s = (double)load_number(row.x, job.spec.dtype, i * job.x_step) * job.spec.scale;
  if (job.spec.mask == kNoMask) return s;
  if (job.spec.mask == kBoolMask) return ((const uint8_t*)row.mask)[i * job.mask_step] ? s : (double)minus_infinity();
  const double sum = s + (double)load_number(row.mask, job.spec.mask_dtype, i * job.mask_step);
  const float rounded = (float)sum;
  return fabsf(rounded) < bits_float(kInfBits) ? (double)rounded : sum;
}

// Adds the first `exist` of `count` exponentials, together in float, to a sum in double.
template <int count>
LOWBIT_DEVICE void add_scores(Sum* sum, const float s[count], int exist) {
  Power e[count];
  float n = sum->n, part = 0;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    e[i] = power_of(s[i]);
    if (i < exist && e[i].n > n) n = e[i].n;
  }
#pragma unroll
  for (int i = 0; i < count; ++i) part += i < exist ? scaled_down(e[i].m, e[i].n - n) : 0.0f;
  if (n > sum->n) sum->m = scaled_down(sum->m, sum->n - n), sum->n = n;
  sum->m += (double)part;
}

// What every element is divided by.
struct Total {
  float inverse, n, log_high, log_low;
};
LOWBIT_DEVICE Total total_of(Sum sum) {
  const double whole = log(sum.m) + (double)sum.n * 0x1.62e42fefa39efp-1;
  return {(float)(1.0 / sum.m), sum.n, (float)whole, (float)(whole - (double)(float)whole)};
}
LOWBIT_DEVICE float result(const Job& job, float s, const Total& total) {
  if (job.spec.log) return (s - total.log_high) - total.log_low;
  const Power e = power_of(s);
  return scaled_down(e.m * total.inverse, e.n - total.n);
}

// Rows that floats cannot tell apart, or that have NaN, infinities, nothing: shifted by their maximum in double.
template <Team team>
LOWBIT_DEVICE void careful_row(const Job& job, const Row& row, int64_t n, double* shared) {
  typedef Place<team> P;
  double top = (double)minus_infinity(), nan = 0;
  for (int64_t i = P::member(); i < n; i += P::kSize) {
    const double s = careful_score(job, row, i);
    top = s > top ? s : top;
    if (s != s) nan = s;
  }
  const auto larger = [](double a, double b) { return a != a || a > b ? a : b; };
  top = fold<team>(nan != nan ? nan : top, shared, larger);
  const bool none = !(fabs(top) < (double)bits_float(kInfBits));
  Sum sum = {0.0, kNoExponent};
  for (int64_t i = P::member(); i < n && !none; i += P::kSize) {
    const float s = (float)(careful_score(job, row, i) - top);
    add_scores<1>(&sum, &s, 1);
  }
  sum = fold<team>(sum, (Sum*)shared, merged);
  const Total total = total_of(sum);
  for (int64_t i = P::member(); i < n; i += P::kSize) {
    const float y = none ? bits_float(0x7fc00000u) : result(job, (float)(careful_score(job, row, i) - top), total);
    store_number(row.out, job.spec.out_dtype, i * job.out_step, y);
  }
}

// The elements of a row that a thread takes at a time: fours of neighbours, or one from each stretch of the team's size.
template <Team team>
struct Part {
  int64_t begin, n;
  bool wide;
  LOWBIT_DEVICE int offset(int i) const { return wide ? i / 4 * 4 * Place<team>::kSize + i % 4 : i * Place<team>::kSize; }
  LOWBIT_DEVICE int64_t at(int i) const { return begin + offset(i); }
  LOWBIT_DEVICE bool has(int i) const { return offset(i) < left(); }
  LOWBIT_DEVICE int left() const { return n - begin < 1 << 20 ? (int)(n - begin) : 1 << 20; }  // 32 bits, to save registers
};

// Its scores, minus infinity past the end. First all is asked for, as it lies in memory; then all is used.
template <Team team>
LOWBIT_DEVICE void load_scores(const Job& job, const Row& row, const Part<team>& part, float s[kHeld]) {
  const Dtype dtype = job.spec.dtype;
  uint32_t raw[kHeld] = {};
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    if (!part.has(i) || (part.wide && i % 4)) continue;
    if (!part.wide) {
      raw[i] = dtype == kF32 ? ((const uint32_t*)row.x)[part.at(i) * job.x_step] : ((const uint16_t*)row.x)[part.at(i) * job.x_step];
    } else if (dtype == kF32) {
      const Words four = load_wide<Words>(row.x + part.at(i) * 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) raw[i + j] = four.w[j];
    } else {
      const HalfWords four = load_wide<HalfWords>(row.x + part.at(i) * 2);
      raw[i] = four.w[0], raw[i + 1] = four.w[1];
    }
  }
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const uint32_t bits = part.wide && dtype != kF32 ? raw[i / 4 * 4 + i % 4 / 2] >> i % 2 * 16 : raw[i];
    const float x = dtype == kF32 ? bits_float(bits) : dtype == kBF16 ? bits_float(bits << 16) : f16_to_float((uint16_t)bits);
    s[i] = part.has(i) ? score(job, row, part.at(i), x) : minus_infinity();
  }
}

template <Team team>
LOWBIT_DEVICE void store_results(const Job& job, const Row& row, const Part<team>& part, const float s[kHeld], const Total& total) {
  const bool single = part.n == 1;  // exactly 1, whatever its exponential rounds to
#pragma unroll
  for (int i = 0; i < kHeld; i += 4) {
    if (!part.has(i)) break;
    float y[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) y[j] = single ? (job.spec.log ? 0.0f : 1.0f) : result(job, s[i + j], total);
    if (part.wide) {
      store_four(row.out, job.spec.out_dtype, part.at(i), part.n, true, y);
      continue;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (part.has(i + j)) store_number(row.out, job.spec.out_dtype, part.at(i + j) * job.out_step, y[j]);
    }
  }
}

// kHold: all scores of the row fit in the registers of its team. Those that are not take 80 registers at most.
template <Team team, bool kHold>
LOWBIT_KERNEL(kThreads, (kHold ? 2 : 3)) softmax_rows(Job job) {
  typedef Place<team> P;
  const int64_t index = block_index() * P::kRows + P::row();
  const bool exists = index < job.rows;  // others come along to the barriers
  const Row row = find_row(job, exists ? index : 0);
  const bool wide = team != kSideTeam && job.wide;
  const Part<team> first = {P::member() * (wide ? 4 : 1), exists ? job.n : 0, wide};
  float held[kHeld];
  Sum sum = {0.0, kNoExponent};
  float top = minus_infinity();
  bool regular = true;
  for (Part<team> part = first; part.begin < part.n; part.begin += kHeld * P::kSize) {
    load_scores<team>(job, row, part, held);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      regular = regular && held[i] == held[i];
      top = held[i] > top ? held[i] : top;
    }
#pragma unroll
    for (int i = 0; i < kHeld && regular && top <= kLargeScore; i += 4) {
      int exist = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) exist += part.has(i + j);
      add_scores<4>(&sum, held + i, exist);
    }
  }
  double* shared = (double*)shared_memory();
  top = fold<team>(regular ? top : bits_float(kInfBits), (float*)shared, [](float a, float b) { return a > b ? a : b; });
  sum = fold<team>(sum, (Sum*)shared, merged);
  const bool care = exists && !(fabsf(top) <= kLargeScore);
  if (!care) {
    const Total total = total_of(sum);
    for (Part<team> part = first; part.begin < part.n; part.begin += kHeld * P::kSize) {
      if (!kHold) load_scores<team>(job, row, part, held);
      store_results<team>(job, row, part, held, total);
    }
  }
  // Where the threads of several teams meet at barriers all go along, with rows of nothing where no care is needed.
  bool any = care;
  if (team == kSideTeam) any = fold<kBlockTeam>((float)care, (float*)shared, [](float a, float b) { return a > b ? a : b; }) > 0;
  if (any) careful_row<team>(job, row, care ? job.n : 0, shared);
}

template <Team team>
void start(const Job& job, Stream stream) {
  typedef Place<team> P;
  const int64_t blocks = (job.rows + P::kRows - 1) / P::kRows;
  const int shared = kThreads * (int)sizeof(Sum);
  if (job.n <= kHeld * P::kSize) launch(softmax_rows<team, true>, blocks, kThreads, shared, stream, job);
  else launch(softmax_rows<team, false>, blocks, kThreads, shared, stream, job);
}

}  // namespace

void softmax(const Softmax& op, Stream stream) {
  const SoftmaxOuter& outer = op.outer;
  if (op.n == 0 || op.columns == 0 || outer.count == 0) return;
  Job job = {op.spec, op.x, op.mask, op.out, op.n, op.columns, outer.count * op.columns, 1, 0, 1, op.n % 4 == 0, (int)outer.dims, {}, {}, {}, {}};
  int64_t offsets = (int64_t)op.x | (int64_t)op.out;
  if (op.columns > 1) job.x_step = op.x_step, job.mask_step = op.mask_step, job.out_step = op.out_step;
  else job.mask_step = op.spec.mask_splat ? 0 : 1;
  for (int d = 0; d < job.dims; ++d) {
    job.size[d] = outer.size[d];
    job.x_stride[d] = outer.x[d];
    job.mask_stride[d] = outer.mask[d];
    job.out_stride[d] = outer.out[d];
    offsets |= outer.x[d] | outer.out[d];
  }
  job.wide = job.wide && offsets % 16 == 0;
  if (op.columns > 1) return start<kSideTeam>(job, stream);
  if (op.n <= 1024) return start<kWarpTeam>(job, stream);
  start<kBlockTeam>(job, stream);
}

}  // namespace lowbit::cuda
