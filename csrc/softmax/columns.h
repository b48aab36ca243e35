// Rows side by side, one in each lane: maximum, sum and result, down the rows. Include one of the vectors first.
#pragma once
#include "softmax/rows.h"

namespace lowbit {
namespace {

constexpr int kVectors = (int)(kColumnBlock / Vec::kWidth);
constexpr int64_t kRun = 16;  // terms that a lane adds up before they go to the larger sum

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
  void call() const { store_as<dtype>(out, i, count, value); }
};

template <Dtype dtype>
struct Columns {
  const SoftmaxSpec& spec;
  const SoftmaxColumns& block;
  const int vectors;
  const Vec scale;
  Vec top[kVectors], floor[kVectors], power[kVectors], sum[kVectors], rest[kVectors];

  Columns(const SoftmaxSpec& a, const SoftmaxColumns& b)
      : spec(a), block(b), vectors((int)((b.columns + Vec::kWidth - 1) / Vec::kWidth)), scale(splat((float)a.scale)) {}

  int64_t lanes(int v) const { return block.columns - v * Vec::kWidth; }

  Vec score(int64_t r, int v) const {
    const int64_t c = v * Vec::kWidth, count = lanes(v);
    const Vec x = count >= Vec::kWidth ? load_as<dtype>(block.x, r * block.x_step + c) : load_as<dtype>(block.x, r * block.x_step + c, count, 0.0f);
    if (spec.mask == kNoMask) return x * scale;
    if (spec.mask == kFloatMask) {
      Vec added;
      if (spec.mask_splat) {
        with_dtype(spec.mask_dtype, LoadMask{block.mask, r * block.mask_step, 1, &added});
        float first[Vec::kWidth];
        store(first, added);
        added = splat(first[0]);
      } else {
        with_dtype(spec.mask_dtype, LoadMask{block.mask, r * block.mask_step + c, count, &added});
      }
      return fma(x, scale, added);
    }
    const uint8_t* keep = (const uint8_t*)block.mask + r * block.mask_step + (spec.mask_splat ? 0 : c);
    if (spec.mask_splat) return *keep ? x * scale : splat(-kInfinity);
    return select(bytes_set(keep, count), x * scale, splat(-kInfinity));
  }

  Vec relative(int64_t r, int v, Vec factor) const {
    const Pair e = exp_pair(larger(floor[v], score(r, v)));
    return scaled(e.m * factor, e.n - power[v]);
  }

  void write(int64_t r, int v, Vec y) const {
    with_dtype(spec.out_dtype, StoreOut{block.out, r * block.out_step + v * Vec::kWidth, lanes(v), y});
  }

  void maxima() {
    for (int v = 0; v < vectors; ++v) top[v] = splat(-kInfinity);
    for (int64_t r = 0; r < block.n; ++r) {
      for (int v = 0; v < vectors; ++v) top[v] = larger(score(r, v), top[v]);
    }
    for (int v = 0; v < vectors; ++v) {
      power[v] = exp_pair(larger(splat(-kMost), top[v])).n;
      floor[v] = (power[v] - splat(200.0f)) * splat(0x1.62E43p-1f);
    }
  }

  void sums() {
    for (int v = 0; v < vectors; ++v) sum[v] = rest[v] = splat(0.0f);
    for (int64_t begin = 0; begin < block.n; begin += kRun) {
      const int64_t end = begin + kRun < block.n ? begin + kRun : block.n;
      for (int v = 0; v < vectors; ++v) {
        Vec run = splat(0.0f);
        for (int64_t r = begin; r < end; ++r) run = run + relative(r, v, splat(1.0f));
        const Vec before = sum[v];  // what the larger sum rounds off is kept apart
        sum[v] = before + run;
        const Vec taken = sum[v] - before;
        rest[v] = rest[v] + ((before - (sum[v] - taken)) + (run - taken));
      }
    }
  }

  uint64_t run() {
    maxima();
    sums();
    uint64_t care = 0;
    for (int v = 0; v < vectors; ++v) {
      const Vec total = sum[v] + rest[v];
      float m[Vec::kWidth], n[Vec::kWidth], tops[Vec::kWidth];
      store(m, total);
      store(n, power[v]);
      store(tops, top[v]);
      for (int64_t j = 0; j < Vec::kWidth && j < lanes(v); ++j) {
        if (block.n == 1 || needs_care({m[j], n[j]}) || !(tops[j] <= kMost / 2)) care |= (uint64_t)1 << (v * Vec::kWidth + j);
        const double whole = log(m[j]) + n[j] * 0x1.62e42fefa39efp-1;
        m[j] = spec.log ? (float)whole : 1.0f / m[j];
        n[j] = (float)(whole - (float)whole);
      }
      sum[v] = load(m);
      rest[v] = load(n);
    }
    for (int64_t r = 0; r < block.n; ++r) {
      for (int v = 0; v < vectors; ++v) write(r, v, spec.log ? (score(r, v) - sum[v]) - rest[v] : relative(r, v, sum[v]));
    }
    return care;
  }
};

uint64_t softmax_columns(const SoftmaxSpec* spec, const SoftmaxColumns* block) {
  FlushToZero flush;
  if (spec->dtype == kF32) return Columns<kF32>(*spec, *block).run();
  return spec->dtype == kBF16 ? Columns<kBF16>(*spec, *block).run() : Columns<kF16>(*spec, *block).run();
}

}  // namespace
}  // namespace lowbit
