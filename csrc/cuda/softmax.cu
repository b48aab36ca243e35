// lowbit::softmax in two passes over each row: the sum of the exponentials as a pair, then the exponentials again, scaled. Rows that are
// short enough keep their scores in registers between the passes. A team of threads has a row: a warp or a block where elements are
// adjacent; where rows lie side by side, the 8 threads of a block that are 32 apart, so that neighbours read neighbouring rows.
#include "cuda/exponent.h"
#include "cuda/kernels.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256, kSide = 32, kMostHeld = 8;
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
  if (team == kWarpTeam) {
    for (int mask = 16; mask; mask /= 2) value = f(value, shuffle_xor(value, mask));
    return value;
  }
  barrier();  // values of the last call may still be read
  shared[thread_index()] = value;
  barrier();
  constexpr int kStride = team == kSideTeam ? kSide : 1;
  const int first = team == kSideTeam ? thread_index() % kSide : thread_index() / Place<team>::kSize * Place<team>::kSize;
  for (int half = Place<team>::kSize / 2; half; half /= 2) {
    const int member = Place<team>::member();
    if (member < half) shared[first + member * kStride] = f(shared[first + member * kStride], shared[first + (member + half) * kStride]);
    barrier();
  }
  return shared[first];
}

struct Job {
  SoftmaxSpec spec;
  const void *x, *mask;
  void* out;
  int64_t n, columns, rows;  // rows: all of them; columns of them lie side by side
  int64_t x_step, mask_step, out_step;
  int dims;
  int64_t size[kMostOuter], x_stride[kMostOuter], mask_stride[kMostOuter], out_stride[kMostOuter];  // bytes
};

// Where a row starts.
struct Row {
  const char *x, *mask;
  char* out;
};
LOWBIT_DEVICE Row find_row(const Job& job, int64_t index) {
  const int64_t column = index % job.columns;
  int64_t outer = index / job.columns, x = 0, mask = 0, out = 0;
  for (int d = job.dims - 1; d >= 0; --d) {
    const int64_t i = outer % job.size[d];
    outer /= job.size[d];
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

LOWBIT_DEVICE float score(const Job& job, const Row& row, int64_t i) {
  const float x = load_number(row.x, job.spec.dtype, i * job.x_step), scale = (float)job.spec.scale;
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
LOWBIT_DEVICE void write(const Job& job, const Row& row, int64_t i, float s, const Total& total) {
  float y;
  if (job.spec.log) {
    y = (s - total.log_high) - total.log_low;
  } else {
    const Power e = power_of(s);
    y = scaled_down(e.m * total.inverse, e.n - total.n);
  }
  store_number(row.out, job.spec.out_dtype, i * job.out_step, y);
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
    if (none) store_number(row.out, job.spec.out_dtype, i * job.out_step, bits_float(0x7fc00000u));
    else write(job, row, i, (float)(careful_score(job, row, i) - top), total);
  }
}

// kHold: all scores of the row fit in the registers of its team.
template <Team team, bool kHold>
LOWBIT_KERNEL(kThreads, 2) softmax_rows(Job job) {
  typedef Place<team> P;
  constexpr int kHeld = kHold ? kMostHeld : 4;  // fewer at a time where they are not kept: more threads fit
  const int64_t index = block_index() * P::kRows + P::row();
  const bool exists = index < job.rows;  // others come along to the barriers
  const Row row = find_row(job, exists ? index : 0);
  const int64_t n = exists ? job.n : 0;
  float held[kHeld];
  Sum sum = {0.0, kNoExponent};
  float top = minus_infinity();
  bool regular = true;
  for (int64_t begin = P::member(); begin < n; begin += kHeld * P::kSize) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = begin + i * P::kSize < n ? score(job, row, begin + i * P::kSize) : minus_infinity();
    const int64_t left = (n - begin + P::kSize - 1) / P::kSize;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      regular = regular && held[i] == held[i];
      top = held[i] > top ? held[i] : top;
    }
#pragma unroll
    for (int i = 0; i < kHeld && regular && top <= kLargeScore; i += 4) {
      add_scores<4>(&sum, held + i, left < kHeld ? (int)left - i : 4);
    }
  }
  double* shared = (double*)shared_memory();
  top = fold<team>(regular ? top : bits_float(kInfBits), (float*)shared, [](float a, float b) { return a > b ? a : b; });
  sum = fold<team>(sum, (Sum*)shared, merged);
  const bool care = exists && !(fabsf(top) <= kLargeScore);
  if (!care) {
    const Total total = total_of(sum);
    const bool single = n == 1;  // exactly 1, whatever its exponential rounds to
    for (int64_t begin = P::member(); begin < n; begin += kHeld * P::kSize) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int64_t at = begin + i * P::kSize;
        if (at >= n) break;
        if (single) store_number(row.out, job.spec.out_dtype, 0, job.spec.log ? 0.0f : 1.0f);
        else write(job, row, at, kHold ? held[i] : score(job, row, at), total);
      }
    }
  }
  // Where the threads of several teams meet at barriers all go along, with rows of nothing where no care is needed.
  bool any = care;
  if (team == kSideTeam) any = fold<kBlockTeam>((float)care, (float*)shared, [](float a, float b) { return a > b ? a : b; }) > 0;
  if (any) careful_row<team>(job, row, care ? n : 0, shared);
}

template <Team team>
void start(const Job& job, Stream stream) {
  typedef Place<team> P;
  const int64_t blocks = (job.rows + P::kRows - 1) / P::kRows;
  const int shared = kThreads * (int)sizeof(Sum);
  if (job.n <= kMostHeld * P::kSize) launch(softmax_rows<team, true>, blocks, kThreads, shared, stream, job);
  else launch(softmax_rows<team, false>, blocks, kThreads, shared, stream, job);
}

}  // namespace

void softmax(const Softmax& op, Stream stream) {
  const SoftmaxOuter& outer = op.outer;
  if (op.n == 0 || op.columns == 0 || outer.count == 0) return;
  Job job = {op.spec, op.x, op.mask, op.out, op.n, op.columns, outer.count * op.columns, 1, 0, 1, (int)outer.dims, {}, {}, {}, {}};
  if (op.columns > 1) job.x_step = op.x_step, job.mask_step = op.mask_step, job.out_step = op.out_step;
  else job.mask_step = op.spec.mask_splat ? 0 : 1;
  for (int d = 0; d < job.dims; ++d) {
    job.size[d] = outer.size[d];
    job.x_stride[d] = outer.x[d];
    job.mask_stride[d] = outer.mask[d];
    job.out_stride[d] = outer.out[d];
  }
  if (op.columns > 1) return start<kSideTeam>(job, stream);
  if (op.n <= 1024) return start<kWarpTeam>(job, stream);
  start<kBlockTeam>(job, stream);
}

}  // namespace lowbit::cuda
