// The row algorithms over tiles. Two-pass: sum, then exponentials again, scaled and stored past the caches. Three-pass: exponentials are
// kept while they are summed and scaled after that; its pass for the maximum ends with the first tile, since pairs need only an exponent
// that is not 2^100 too small.
#pragma once
#include "common/convert.h"
#include "common/log.h"
#include "softmax/flush.h"
#include "softmax/tiles.h"

namespace lowbit {
namespace {

const SoftmaxSum kCare = {__builtin_nan(""), 0.0};

template <class Source>
inline float max_from(Source& source, int64_t begin, int64_t end) {
  float most = -kInfinity;
  for (int64_t i = begin; i < end; i += kTile) {
    const int64_t count = end - i < kTile ? end - i : kTile;
    const float top = tile_max(source.tile(i, count), count);
    most = top > most ? top : most;
  }
  return most;
}

// What is kept may be as large as 2^100, so powers that would make a number near 1 zero still count.
inline void times_power_of_two(float* kept, int64_t count, float power) {
  each_vector(count, [&](int64_t i, int64_t some) { store_as<kF32>(kept, i, some, times_power(load_as<kF32>(kept, i, some, 0.0f), splat(power))); });
}

template <bool keep, class Source>
inline SoftmaxSum sum_row(Source& source, int64_t n, float* kept) {
  const int64_t head = n < kTile ? n : kTile;
  float top = tile_max(source.tile(0, head), head);
  if (top > kMost / 2) return kCare;
  double m = 0;
  float power = power_of(top);
  for (int64_t i = 0; i < n; i += kTile) {
    const int64_t count = n - i < kTile ? n - i : kTile;
    float sum = tile_sum<keep>(source.tile(i, count), count, base_of(power), kept + i);
    if (!(__builtin_fabsf(sum) < kLarge)) {  // NaN, or something 2^80 times all before it
      top = max_from(source, i, keep ? n : i + count);
      if (!(top <= kMost / 2)) return kCare;
      const float raised = power_of(top);
      m = ldexp(m, (int)(power - raised));
      if (keep) times_power_of_two(kept, i, power - raised);
      power = raised;
      sum = tile_sum<keep>(source.tile(i, count), count, base_of(power), kept + i);
      if (!(__builtin_fabsf(sum) < kLarge)) return kCare;
    }
    m += sum;
  }
  return {m, power};
}

template <Dtype dtype, bool stream, class Source, class F>
inline void write_row(Source& source, int64_t n, void* out, F f) {
  for (int64_t i = 0; i < n; i += kTile) {
    const int64_t count = n - i < kTile ? n - i : kTile;
    tile_write<dtype, stream>(source.tile(i, count), count, (char*)out + i * element_size(dtype), f);
  }
  if (stream) stream_end();
}

template <class Source, class F>
struct WriteRow {
  Source& source;
  int64_t n;
  void* out;
  bool stream;
  F f;
  template <Dtype dtype>
  void call() const {
    if (stream) write_row<dtype, true>(source, n, out, f);
    else write_row<dtype, false>(source, n, out, f);
  }
};

template <class Source, class F>
inline void write(Source& source, const SoftmaxSpec& spec, const SoftmaxRow& part, F f) {
  with_dtype(spec.out_dtype, WriteRow<Source, F>{source, part.n, part.out, spec.two_pass, f});
}

template <class View, class F>
struct WriteTile {
  const View& view;
  int64_t n;
  void* out;
  F f;
  template <Dtype dtype>
  void call() const { tile_write<dtype, false>(view, n, out, f); }
};

template <class View, class F>
inline void write_tile(Dtype dtype, const View& view, int64_t n, void* out, F f) {
  with_dtype(dtype, WriteTile<View, F>{view, n, out, f});
}

inline void scale_kept(Dtype dtype, const SoftmaxRow& row, float factor) {
  const Vec by = splat(factor);
  write_tile(dtype, Floats{row.kept, by}, row.n, row.out, [=](Vec e) { return e * by; });
}

// log of m * 2^n as the sum of two floats.
struct LogSum {
  Vec high, low;
  explicit LogSum(SoftmaxSum sum) {
    const double whole = log(sum.m) + sum.n * 0x1.62e42fefa39efp-1;
    high = splat((float)whole);
    low = splat((float)(whole - (float)whole));
  }
  Vec operator()(Vec s) const { return (s - high) - low; }
};

template <class Source>
inline SoftmaxSum first_pass(Source& source, const SoftmaxSpec& spec, const SoftmaxRow& part) {
  return spec.two_pass || spec.log ? sum_row<false>(source, part.n, nullptr) : sum_row<true>(source, part.n, part.kept);
}

template <class Source>
inline void second_pass(Source& source, const SoftmaxSpec& spec, const SoftmaxRow& part, SoftmaxSum own, SoftmaxSum total) {
  if (spec.log) {
    write(source, spec, part, LogSum(total));
  } else if (spec.two_pass) {
    const Vec inverse = splat((float)(1.0 / total.m));
    const Base base = base_of((float)total.n);
    write(source, spec, part, [=](Vec s) {
      const Pair e = exp_pair(larger(base.floor, s));
      return scaled(e.m * inverse, e.n - base.power);
    });
  } else if (own.n == total.n) {
    scale_kept(spec.out_dtype, part, (float)(1.0 / total.m));
  } else {  // in two factors: the power alone may be no float, and yet count, since what is kept may be 2^100
    const Vec inverse = splat((float)(1.0 / total.m)), power = splat((float)(own.n - total.n));
    write_tile(spec.out_dtype, Floats{part.kept, inverse}, part.n, part.out, [=](Vec e) { return times_power(e, power) * inverse; });
  }
}

struct FillNan {
  void* out;
  int64_t n;
  template <Dtype dtype>
  void call() const {
    each_vector(n, [&](int64_t i, int64_t some) { store_as<dtype>(out, i, some, splat(__builtin_nanf(""))); });
  }
};

void careful_row(const SoftmaxSpec& spec, const SoftmaxRow& row) {
  Careful source(spec, row);
  source.shift = source.top();
  if (!(__builtin_fabs(source.shift) < __builtin_inf())) return with_dtype(spec.out_dtype, FillNan{row.out, row.n});
  const SoftmaxSum sum = first_pass(source, spec, row);
  second_pass(source, spec, row, sum, sum);
}

inline SoftmaxRow row_of(const SoftmaxSpec& spec, const SoftmaxRows& rows, int64_t r) {
  const SoftmaxRow& first = rows.row;
  void* out = (char*)first.out + r * rows.out_step;
  const bool own = !spec.two_pass && !spec.log && spec.out_dtype == kF32;
  return {(const char*)first.x + r * rows.x_step, (const char*)first.mask + r * rows.mask_step, out, own ? (float*)out : first.kept, first.n};
}

template <class Source>
void long_rows(const SoftmaxSpec& spec, const SoftmaxRows& rows) {
  alignas(64) float memory[kTile];
  for (int64_t r = 0; r < rows.count; ++r) {
    const SoftmaxRow row = row_of(spec, rows, r);
    Source source(spec, row, memory);
    const SoftmaxSum sum = first_pass(source, spec, row);
    if (needs_care(sum)) careful_row(spec, row);
    else second_pass(source, spec, row, sum, sum);
  }
}

// Rows of one tile, pass by pass.
template <class Source>
void group_of_rows(const SoftmaxSpec& spec, const SoftmaxRows& rows, int64_t begin, int64_t count, float* memory) {
  typedef typename Source::Tile Tile;
  const int64_t n = rows.row.n, step = round_up(n, Vec::kWidth);
  const void* scores[kGroup];
  float tops[kGroup], powers[kGroup], sums[kGroup];
  const Vec scale = splat((float)spec.scale);
  const auto row_at = [&](int64_t r) {
    SoftmaxRow row = row_of(spec, rows, begin + r);
    if (spec.log || spec.out_dtype != kF32) row.kept = memory + r * step;
    return row;
  };
  for (int64_t r = 0; r < count; ++r) {
    const SoftmaxRow row = row_at(r);
    const Tile tile = Source(spec, row, memory + r * step).tile(0, n);
    scores[r] = tile.x;
    tops[r] = tile_max(tile, n);
    powers[r] = power_of(tops[r]);
  }
  for (int64_t r = 0; r < count; ++r) {
    const Tile tile = {scores[r], scale};
    const Base base = base_of(powers[r]);
    sums[r] = spec.log ? tile_sum<false>(tile, n, base, nullptr) : tile_sum<true>(tile, n, base, row_at(r).kept);
  }
  for (int64_t r = 0; r < count; ++r) {
    const SoftmaxRow row = row_at(r);
    if (!(__builtin_fabsf(tops[r]) <= kMost / 2 && sums[r] < kLarge)) careful_row(spec, row);
    else if (spec.log) write_tile(spec.out_dtype, Tile{scores[r], scale}, n, row.out, LogSum({sums[r], powers[r]}));
    else scale_kept(spec.out_dtype, row, 1.0f / sums[r]);
  }
}

// Rows of one element that do not lie side by side: s - s is zero, or NaN where s is not finite. x * scale itself might overflow.
void single_elements(const SoftmaxSpec& spec, const SoftmaxRows& rows) {
  const float none = (float)(0.0 * spec.scale), one = spec.log ? 0.0f : 1.0f;
  for (int64_t r = 0; r < rows.count; ++r) {
    const SoftmaxRow row = row_of(spec, rows, r);
    float s = load_float(row.x, spec.dtype, 0) * none;
    if (spec.mask == kFloatMask) s += load_float(row.mask, spec.mask_dtype, 0);
    if (spec.mask == kBoolMask && !*(const uint8_t*)row.mask) s = -kInfinity;
    store_float(row.out, spec.out_dtype, 0, (s - s) + one);
  }
}

template <class Source>
void rows_from(const SoftmaxSpec& spec, const SoftmaxRows& rows) {
  if (rows.row.n == 1) return single_elements(spec, rows);
  if (spec.two_pass || rows.row.n > kTile) return long_rows<Source>(spec, rows);
  alignas(64) float memory[kMemory];
  const int64_t fit = kMemory / round_up(rows.row.n, Vec::kWidth), most = fit < kGroup ? fit : kGroup;
  for (int64_t r = 0; r < rows.count; r += most) {
    group_of_rows<Source>(spec, rows, r, rows.count - r < most ? rows.count - r : most, memory);
  }
}

template <class Source>
SoftmaxSum first_from(const SoftmaxSpec& spec, const SoftmaxRow& part) {
  alignas(64) float memory[kTile];
  Source source(spec, part, memory);
  return first_pass(source, spec, part);
}

template <class Source>
void second_from(const SoftmaxSpec& spec, const SoftmaxRow& part, SoftmaxSum own, SoftmaxSum total) {
  alignas(64) float memory[kTile];
  Source source(spec, part, memory);
  second_pass(source, spec, part, own, total);
}

// The source that fits a call.
#define LOWBIT_WITH_SOURCE(spec, function, ...)                                          \
  if ((spec).mask != kNoMask) return function<Masked>(spec, __VA_ARGS__);                \
  if ((spec).dtype == kBF16) return function<Direct<kBF16, true>>(spec, __VA_ARGS__);    \
  if ((spec).dtype == kF16) return function<Direct<kF16, true>>(spec, __VA_ARGS__);      \
  if ((spec).scale != 1.0) return function<Direct<kF32, true>>(spec, __VA_ARGS__);       \
  return function<Direct<kF32, false>>(spec, __VA_ARGS__);

inline void dispatch_rows(const SoftmaxSpec& spec, const SoftmaxRows& rows) { LOWBIT_WITH_SOURCE(spec, rows_from, rows) }

void softmax_rows(const SoftmaxSpec* spec, const SoftmaxRows* rows) {
  FlushToZero flush;
  dispatch_rows(*spec, *rows);
}

SoftmaxSum softmax_first(const SoftmaxSpec* spec, const SoftmaxRow* part) {
  FlushToZero flush;
  LOWBIT_WITH_SOURCE(*spec, first_from, *part)
}

void softmax_second(const SoftmaxSpec* spec, const SoftmaxRow* part, SoftmaxSum own, SoftmaxSum total) {
  FlushToZero flush;
  LOWBIT_WITH_SOURCE(*spec, second_from, *part, own, total)
}

#undef LOWBIT_WITH_SOURCE

}  // namespace
}  // namespace lowbit
