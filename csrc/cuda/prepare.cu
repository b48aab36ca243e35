// Rows to codes, with what the treatments of outliers keep exact. One block a row; the row is read again for each step, from the cache.
#include "cuda/prepare.h"

#include "cuda/rows.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSharedBytes = 4 * 32 * kRowCuts;  // a word for each cut and warp

struct Job {
  Matrix x;
  bool regular;
  Prepared to;
  int64_t kp, width;  // columns that are computed, columns that are stored
  float threshold;
};

// All threads of a warp go round equally often: rotations exchange data.
template <class F>
LOWBIT_DEVICE void each_chunk(int64_t kp, F f) {
  const int64_t step = (int64_t)block_threads() * kChunk;
  for (int64_t base = 0; base < kp; base += step) f(base + (int64_t)thread_index() * kChunk);
}

template <Treatment treatment>
LOWBIT_DEVICE void load_treated(const Job& job, const char* row, int64_t k, float v[kChunk]) {
  load_chunk(row, job.x.dtype, k, job.x.columns, job.regular, v);
  if (treatment == kRotation) rotate_chunk(v);
}

// Marks the columns in which a row without NaN and Inf reaches the threshold. Threads may mark the same one: they all write 1.
LOWBIT_DEVICE void mark_row(const Job& job, int64_t r) {
  uint32_t* shared = (uint32_t*)shared_memory();
  const char* row = row_at(job.x, r);
  float v[kChunk];
  uint32_t a[1] = {0};
  each_chunk(job.kp, [&](int64_t k) {
    load_chunk(row, job.x.dtype, k, job.x.columns, job.regular, v);
    const uint32_t most = chunk_maximum(v);
    a[0] = most > a[0] ? most : a[0];
  });
  block_maxima<1>(a, shared);
  if (a[0] >= kInfBits || !(bits_float(a[0]) >= job.threshold)) return;
  each_chunk(job.kp, [&](int64_t k) {
    load_chunk(row, job.x.dtype, k, job.x.columns, job.regular, v);
    for (int i = 0; i < kChunk; ++i) {
      if (k + i < job.x.columns && bits_float(magnitude(v[i])) >= job.threshold) job.to.flags[k + i] = 1;
    }
  });
}

// Bytes k .. k + 7 of the marks, which are 0 or 1; without the treatment, and from kp on, none.
template <Treatment treatment>
LOWBIT_DEVICE HalfWords marks_at(const Job& job, int64_t k) {
  return treatment == kColumns && k < job.kp ? load_wide<HalfWords>(job.to.flags + k) : HalfWords{};
}

// The marked columns as an ascending list: 16 a thread at a time, behind those of the threads before it.
LOWBIT_DEVICE void list_columns(const Job& job) {
  constexpr int kTaken = 16;
  uint32_t listed = 0;
  barrier();  // marks of this block may still be written
  for (int64_t base = 0; base < job.kp; base += block_threads() * kTaken) {
    const int64_t k = base + thread_index() * kTaken;
    Words marks = {};
    if (k < job.kp) marks = load_wide<Words>(job.to.flags + k);
    const uint32_t own = (marks.w[0] + marks.w[1] + marks.w[2] + marks.w[3]) * 0x01010101u >> 24;  // the sum of its bytes
    uint32_t all, at = listed + block_prefix(own, &all, (uint32_t*)shared_memory());
    listed += all;
    for (int i = 0; i < kTaken && own; ++i) {
      if (marks.w[i / 4] >> i % 4 * 8 & 1) job.to.columns[at++] = (int32_t)(k + i);
    }
  }
  if (thread_index() == 0) job.to.count[0] = (int32_t)listed;
}

// The lowest cut of the row's maximum `a` with at most 16 elements above it (infinite: none), and the maximum of the others.
LOWBIT_DEVICE float choose_cut(const Job& job, const char* row, uint32_t a, uint32_t* kept, uint32_t* shared) {
  uint32_t above[kRowCuts] = {}, below[kRowCuts] = {};
  float v[kChunk];
  each_chunk(job.kp, [&](int64_t k) {
    load_chunk(row, job.x.dtype, k, job.x.columns, job.regular, v);
    for (int i = 0; i < kChunk; ++i) {
      float cut = bits_float(a);
#pragma unroll
      for (int j = 0; j < kRowCuts; ++j) {
        cut *= 0.5f;
        const uint32_t size = magnitude(v[i]);
        if (bits_float(size) > cut) ++above[j];
        else below[j] = size > below[j] ? size : below[j];
      }
    }
  });
  block_sums<kRowCuts>(above, shared);
  block_maxima<kRowCuts>(below, shared);
  float cut = bits_float(a), chosen = bits_float(kInfBits);
  *kept = a;
#pragma unroll
  for (int j = 0; j < kRowCuts; ++j) {
    cut *= 0.5f;
    if (above[j] <= (uint32_t)kRowCapacity) chosen = cut, *kept = below[j];
  }
  return chosen;
}

// The (at most 16) exact elements of a row, ascending, so that sums over them have one order: a share of the row for each thread.
LOWBIT_DEVICE void collect(const Job& job, int64_t r, const char* row, float cut, uint32_t* shared) {
  uint32_t own = 0, all;
  float v[kChunk];
  const int64_t share = (job.kp + (int64_t)block_threads() * kChunk - 1) / ((int64_t)block_threads() * kChunk) * kChunk;
  const int64_t begin = thread_index() * share, end = begin + share < job.x.columns ? begin + share : job.x.columns;
  for (int64_t k = begin; k < end; k += kChunk) {
    load_chunk(row, job.x.dtype, k, end, job.regular, v);
    for (int i = 0; i < kChunk; ++i) own += bits_float(magnitude(v[i])) > cut;
  }
  uint32_t before = block_prefix(own, &all, shared);
  if (thread_index() == 0) job.to.count[r] = (int32_t)all;
  if (own == 0) return;
  for (int64_t k = begin; k < end; k += kChunk) {
    load_chunk(row, job.x.dtype, k, end, job.regular, v);
    for (int i = 0; i < kChunk; ++i) {
      if (!(bits_float(magnitude(v[i])) > cut)) continue;
      job.to.columns[r * kRowCapacity + before] = (int32_t)(k + i);
      job.to.value[r * kRowCapacity + before++] = v[i];
    }
  }
}

template <Treatment treatment>
LOWBIT_DEVICE void quantize_row(const Job& job, int64_t r) {
  uint32_t* shared = (uint32_t*)shared_memory();
  const char* row = row_at(job.x, r);
  float v[kChunk];
  uint32_t a[2] = {0, 0};  // of the whole row, of what is kept of it
  each_chunk(job.kp, [&](int64_t k) {
    load_treated<treatment>(job, row, k, v);
    const uint32_t most = chunk_maximum(v);
    a[0] = most > a[0] ? most : a[0];
    if (treatment != kColumns) return;
    const HalfWords marks = marks_at<treatment>(job, k);
    for (int i = 0; i < kChunk; ++i) {
      if (!(marks.w[i / 4] >> i % 4 * 8 & 1)) a[1] = magnitude(v[i]) > a[1] ? magnitude(v[i]) : a[1];
    }
  });
  block_maxima<treatment == kColumns ? 2 : 1>(a, shared);
  const bool special = a[0] >= kInfBits;
  uint32_t kept = treatment == kColumns && !special ? a[1] : a[0];
  float cut = bits_float(kInfBits);
  if (treatment == kRows) {
    if (!special) cut = choose_cut(job, row, a[0], &kept, shared);
    collect(job, r, row, cut, shared);
  }
  const Encoding encoding = encoding_of(kept, S8::kMost);
  if (thread_index() == 0) job.to.scale[r] = encoding.scale;
  int32_t q[kChunk];
  each_chunk(job.kp, [&](int64_t k) {
    load_treated<treatment>(job, row, k, v);
    const HalfWords marks = marks_at<treatment>(job, k);
    for (int i = 0; i < kChunk; ++i) {
      const bool exact = (treatment == kColumns && marks.w[i / 4] >> i % 4 * 8 & 1) ||
                         (treatment == kRows && bits_float(magnitude(v[i])) > cut);
      q[i] = exact ? 0 : code_of(v[i], encoding, S8::kMost);
    }
    store_codes(job.to.q + r * job.width, k, job.width, q);
  });
}

template <Treatment treatment>
LOWBIT_KERNEL(kThreads, 4) quantize_rows(Job job) {
  if (treatment == kColumns && block_index() == job.x.rows) return list_columns(job);  // one block more than rows
  quantize_row<treatment>(job, block_index());
}

LOWBIT_KERNEL(kThreads, 4) mark_columns(Job job) { mark_row(job, block_index()); }

// All steps for a few rows, one after the other: at this size it is launches that take time.
LOWBIT_KERNEL(kThreads, 1) split_few_rows(Job job) {
  for (int64_t k = thread_index(); k < job.kp; k += block_threads()) job.to.flags[k] = 0;
  barrier();
  for (int64_t r = 0; r < job.x.rows; ++r) mark_row(job, r);
  list_columns(job);
  for (int64_t r = 0; r < job.x.rows; ++r) quantize_row<kColumns>(job, r);
}

LOWBIT_KERNEL(kThreads, 4) rotate_rows(Matrix x, bool regular, int64_t kp, float* out) {
  const char* row = row_at(x, block_index());
  each_chunk(kp, [&](int64_t k) {
    float v[kChunk];
    load_chunk(row, x.dtype, k, x.columns, regular, v);
    rotate_chunk(v);
    for (int i = 0; i < kChunk; ++i) {
      if (k + i < kp) out[block_index() * kp + k + i] = v[i];
    }
  });
}

// A thread for each chunk; the threads of a group (4, 8 or 16) are neighbours in a warp.
LOWBIT_KERNEL(kThreads, 4) quantize_groups(Matrix x, bool regular, int64_t groups, int members, int8_t* q, float* scale) {
  const int64_t index = (block_index() * kThreads + thread_index()) / members;
  const int member = thread_index() % members;
  const int64_t row = index / groups, group = index % groups, k = (group * members + member) * kChunk;
  const bool exists = row < x.rows;
  float v[kChunk];
  load_chunk(row_at(x, exists ? row : 0), x.dtype, k, exists ? x.columns : 0, regular, v);
  uint32_t a = chunk_maximum(v);
  for (int mask = members / 2; mask; mask /= 2) {
    const uint32_t other = shuffle_xor(a, mask);
    a = other > a ? other : a;
  }
  if (!exists) return;
  const Encoding encoding = encoding_of(a, S4::kMost);
  if (member == 0) scale[index] = encoding.scale;
  int32_t codes[kChunk];
  for (int i = 0; i < kChunk; ++i) codes[i] = code_of(v[i], encoding, S4::kMost);
  store_codes(q + row * x.columns, k, x.columns, codes);
}

template <Treatment treatment>
void start(const Job& job, Stream stream) {
  const int threads = job.kp <= 128 * kChunk ? 128 : kThreads;
  const int64_t blocks = job.x.rows + (treatment == kColumns ? 1 : 0);
  launch(quantize_rows<treatment>, blocks, threads, kSharedBytes, stream, job);
}

}  // namespace

int64_t lay_out(Prepared* made, char* workspace, int64_t m, int64_t kp, Treatment treatment) {
  int64_t used = 0;
  const auto take = [&](int64_t bytes) {
    char* part = workspace + used;
    used += round_up(bytes, 16);
    return part;
  };
  made->q = (int8_t*)take(m * kp);
  made->scale = (float*)take(m * 4);
  const int64_t listed = treatment == kColumns ? kp : treatment == kRows ? m * kRowCapacity : 0;
  made->flags = (uint8_t*)take(treatment == kColumns ? kp : 0);
  made->columns = (int32_t*)take(listed * 4);
  made->count = (int32_t*)take(treatment == kColumns ? 4 : treatment == kRows ? m * 4 : 0);
  made->value = (float*)take(treatment == kRows ? listed * 4 : 0);
  return used;
}

void prepare(const Prepared& to, const Matrix& x, int64_t kp, Treatment treatment, float threshold, Stream stream) {
  const Job job = {x, is_regular(x), to, kp, kp, threshold};
  if (treatment == kNone) return start<kNone>(job, stream);
  if (treatment == kRotation) return start<kRotation>(job, stream);
  if (treatment == kRows) return start<kRows>(job, stream);
  constexpr int64_t kFewRows = 4;
  if (x.rows <= kFewRows) return launch(split_few_rows, 1, kThreads, kSharedBytes, stream, job);
  zero_memory(to.flags, kp, stream);
  launch(mark_columns, x.rows, kThreads, kSharedBytes, stream, job);
  start<kColumns>(job, stream);
}

void quantize_s8(const Matrix& x, int8_t* q, float* scale, Stream stream) {
  Prepared to = {};
  to.q = q;
  to.scale = scale;
  start<kNone>({x, is_regular(x), to, round_up(x.columns, kBlock), x.columns, 0.0f}, stream);
}

void quantize_s4(const Matrix& x, int64_t group, int8_t* q, float* scale, Stream stream) {
  const int64_t groups = (x.columns + group - 1) / group, members = group / kChunk;
  launch(quantize_groups, (x.rows * groups * members + kThreads - 1) / kThreads, kThreads, 0, stream, x, is_regular(x), groups, (int)members, q,
         scale);
}

void rotate(const Matrix& x, float* out, Stream stream) {
  launch(rotate_rows, x.rows, kThreads, 0, stream, x, is_regular(x), round_up(x.columns, kBlock), out);
}

const char* launch_error() { return last_error(); }

}  // namespace lowbit::cuda
