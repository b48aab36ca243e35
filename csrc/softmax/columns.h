// Rows side by side, one in each lane: maximum, sum and result, down the rows. Include one of the vectors first.
#pragma once
#include "softmax/rows.h"

namespace lowbit {
namespace {

constexpr int kVectors = (int)(kColumnBlock / Vec::kWidth);
constexpr int64_t kRun = 16;       // terms that a lane adds up, in fours, before they go to the larger sum
constexpr int64_t kRowsAhead = 8;  // to prefetch

struct LoadMask {
  const void* from;
  int64_t i, count;
  Vec* value;
  template <Dtype dtype>
  void call() const { *value = load_as<dtype>(from, i, count, 0.0f); }
};

struct StoreOut {
  void* out;
  int64_t i, count;
  Vec value;
  template <Dtype dtype>
  void call() const {
    if (count >= Vec::kWidth) store_as<dtype>(out, i, value);
    else store_as<dtype>(out, i, count, value);
  }
};

template <Dtype dtype, bool masked, bool full>
struct Columns {
  const SoftmaxSpec& spec;
  const SoftmaxColumns& block;
  const int vectors = full ? kVectors : (int)((block.columns + Vec::kWidth - 1) / Vec::kWidth);
  const Vec scale = splat((float)(block.n == 1 ? 0.0 * spec.scale : spec.scale));  // see ones()
  Vec floor[kVectors], power[kVectors], sum[kVectors], rest[kVectors];
  float tops[kColumnBlock];

  Columns(const SoftmaxSpec& a, const SoftmaxColumns& b) : spec(a), block(b) {}

  int64_t lanes(int v) const { return full ? Vec::kWidth : block.columns - v * Vec::kWidth; }

  Vec score(int64_t r, int v) const {
    const int64_t c = v * Vec::kWidth, i = r * block.x_step + c, count = lanes(v);
    const Vec x = full || count >= Vec::kWidth ? load_as<dtype>(block.x, i) : load_as<dtype>(block.x, i, count, 0.0f);
    return masked ? with_mask(x, r * block.mask_step + (spec.mask_splat ? 0 : c), count) : x * scale;
  }

  Vec with_mask(Vec x, int64_t i, int64_t count) const {
    const uint8_t* keep = (const uint8_t*)block.mask + i;
    if (spec.mask == kBoolMask && spec.mask_splat) return *keep ? x * scale : splat(-kInfinity);
    if (spec.mask == kBoolMask) return select(bytes_set(keep, count), x * scale, splat(-kInfinity));
    Vec added;
    with_dtype(spec.mask_dtype, LoadMask{block.mask, i, spec.mask_splat ? 1 : count, &added});
    if (spec.mask_splat) {
      float first[Vec::kWidth];
      store(first, added);
      added = splat(first[0]);
    }
    return fma(x, scale, added);
  }

  __attribute__((always_inline)) inline void write(int64_t r, int v, Vec y) const {
    with_dtype(spec.out_dtype, StoreOut{block.out, r * block.out_step + v * Vec::kWidth, lanes(v), y});
  }

  void maxima() {
    Vec top[kVectors];
    for (int v = 0; v < kVectors; ++v) top[v] = splat(-kInfinity);
    for (int64_t r = 0; r < block.n; ++r) {
      for (int v = 0; v < vectors; ++v) {
        __builtin_prefetch((const char*)block.x + ((r + kRowsAhead) * block.x_step + v * Vec::kWidth) * element_size(dtype));
        top[v] = larger(score(r, v), top[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      store(tops + v * Vec::kWidth, top[v]);
      power[v] = exp_pair(larger(splat(-kMost), top[v])).n;
      floor[v] = (power[v] - splat(200.0f)) * splat(0x1.62E43p-1f);
    }
  }

  template <bool keep>
  Vec run_of(int64_t begin, int64_t end, int v) const {
    const Base base = {floor[v], power[v]};
    Vec run = splat(0.0f);
    for (int64_t r = begin; r < end;) {
      Vec four = splat(0.0f);
      for (const int64_t last = r + 4 < end ? r + 4 : end; r < last; ++r) {
        const Vec e = relative_exp(score(r, v), base);
        if (keep) store(block.kept + r * kColumnBlock + v * Vec::kWidth, e);
        four = four + e;
      }
      run = run + four;
    }
    return run;
  }

  void sums() {
    for (int v = 0; v < kVectors; ++v) sum[v] = rest[v] = splat(0.0f);
    for (int64_t begin = 0; begin < block.n; begin += kRun) {
      const int64_t end = begin + kRun < block.n ? begin + kRun : block.n;
      for (int v = 0; v < vectors; ++v) {
        const Vec run = block.kept ? run_of<true>(begin, end, v) : run_of<false>(begin, end, v);
        const Vec before = sum[v];  // what the larger sum rounds off is kept apart
        sum[v] = before + run;
        const Vec taken = sum[v] - before;
        rest[v] = rest[v] + ((before - (sum[v] - taken)) + (run - taken));
      }
    }
  }

  void results() const {
    for (int64_t r = 0; r < block.n; ++r) {
      for (int v = 0; v < vectors; ++v) {
        if (spec.log) write(r, v, (score(r, v) - sum[v]) - rest[v]);
        else if (block.kept) write(r, v, load(block.kept + r * kColumnBlock + v * Vec::kWidth) * sum[v]);
        else write(r, v, relative_exp(score(r, v), {floor[v], power[v]}) * sum[v]);
      }
    }
  }

  bool all_fine() const {
    Mask bad = is_nan(splat(0.0f));
    for (int v = 0; v < vectors; ++v) {
      const Vec top = load(tops + v * Vec::kWidth);  // where top is a NaN's neighbour, the sum is NaN
      bad = bad | is_nan(sum[v]) | above(sum[v], splat(kLarge)) | above(top, splat(kMost / 2)) | above(splat(-kMost / 2), top);
    }
    return !any(bad);
  }

  uint64_t rows_for_care() const {
    uint64_t care = 0;
    for (int v = 0; v < vectors; ++v) {
      float m[Vec::kWidth];
      store(m, sum[v]);
      for (int64_t j = 0; j < Vec::kWidth && j < lanes(v); ++j) {
        const int64_t c = v * Vec::kWidth + j;
        if (!(m[j] < kLarge) || !(__builtin_fabsf(tops[c]) <= kMost / 2)) care |= (uint64_t)1 << c;
      }
    }
    return care;
  }

  // The logarithms of the sums as sum + rest.
  void take_logs() {
    for (int v = 0; v < vectors; ++v) {
      float m[Vec::kWidth], n[Vec::kWidth];
      store(m, sum[v]);
      store(n, power[v]);
      for (int64_t j = 0; j < Vec::kWidth && j < lanes(v); ++j) {
        const double whole = log((double)m[j]) + n[j] * 0x1.62e42fefa39efp-1;
        m[j] = (float)whole;
        n[j] = (float)(whole - (float)whole);
      }
      sum[v] = load(m);
      rest[v] = load(n);
    }
  }

  // One row: s - s is zero, or NaN where s is not finite. Its scale is 0, since x * scale itself might overflow.
  void ones() const {
    const Vec one = splat(spec.log ? 0.0f : 1.0f);
    for (int v = 0; v < vectors; ++v) {
      const Vec s = score(0, v);
      write(0, v, (s - s) + one);
    }
  }

  uint64_t run() {
    if (block.n == 1) {
      ones();
      return 0;
    }
    maxima();
    sums();
    for (int v = 0; v < vectors; ++v) sum[v] = sum[v] + rest[v];
    const uint64_t care = all_fine() ? 0 : rows_for_care();
    if (spec.log) take_logs();
    else for (int v = 0; v < vectors; ++v) sum[v] = splat(1.0f) / sum[v];  // from here on the factor
    results();
    return care;
  }
};

template <Dtype dtype>
uint64_t columns_of(const SoftmaxSpec& spec, const SoftmaxColumns& block) {
  if (spec.mask != kNoMask) return Columns<dtype, true, false>(spec, block).run();
  if (block.columns == kColumnBlock) return Columns<dtype, false, true>(spec, block).run();
  return Columns<dtype, false, false>(spec, block).run();
}

void softmax_columns(const SoftmaxSpec* spec, const SoftmaxColumns* columns, uint64_t* care) {
  FlushToZero flush;
  const int64_t mask_step = mask_size(spec->mask, spec->mask_dtype);
  for (int64_t c = 0; c < columns->columns; c += kColumnBlock) {
    SoftmaxColumns block = *columns;
    block.x = (const char*)block.x + c * element_size(spec->dtype);
    block.mask = (const char*)block.mask + (spec->mask_splat ? 0 : c * mask_step);
    block.out = (char*)block.out + c * element_size(spec->out_dtype);
    block.columns = block.columns - c < kColumnBlock ? block.columns - c : kColumnBlock;
    care[c / kColumnBlock] = spec->dtype == kF32    ? columns_of<kF32>(*spec, block)
                             : spec->dtype == kBF16 ? columns_of<kBF16>(*spec, block)
                                                    : columns_of<kF16>(*spec, block);
  }
}

}  // namespace
}  // namespace lowbit
