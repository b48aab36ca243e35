// Attention of a block of rows: products from an engine (panels.h, direct.h, tiles of amx.cpp), the softmax here. Include a vector first.
//
// A row keeps an integral exponent instead of its maximum: weights are 2^(t - exponent), t being the score times log2(e). The exponent is
// raised only when a score exceeds it by kSlack, so that sums are rarely rescaled, and then exactly, by a power of two.
#pragma once
#include <math.h>

#include "attention/attention.h"
#include "common/convert.h"
#include "vec/exp.h"

namespace lowbit {
namespace {

constexpr float kLog2e = 0x1.715476p+0f;
constexpr float kSlack = 16.0f;        // weights up to 2^16: far from overflow, and no 32-bit or bfloat16 digit is lost
constexpr float kLowest = -0x1p127f;   // masks of -FLT_MAX times log2(e) stay finite: a row of them is uniform

inline void fill_zero(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += Vec::kWidth) store(x + i, splat(0));
}

inline void scale_row(float* x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += Vec::kWidth) store(x + i, load(x + i) * splat(factor));
}

template <Dtype dtype>
void divide_as(const float* total, float sum, int64_t n, void* out) {
  const Vec s = splat(sum == 0.0f ? 0.0f : 1.0f / sum);  // a query that sees no key gets zeros
  for (int64_t i = 0; i < n; i += Vec::kWidth) store_as<dtype>(out, i, n - i, load(total + i) * s);
}

inline void divide_row(const float* total, float sum, int64_t n, Dtype dtype, void* out) {
  if (dtype == kF32) divide_as<kF32>(total, sum, n, out);
  else if (dtype == kBF16) divide_as<kBF16>(total, sum, n, out);
  else divide_as<kF16>(total, sum, n, out);
}

inline bool bytes_any(const uint8_t* p, int64_t n) {
  for (int64_t i = 0; i < n; i += Vec::kWidth) {
    if (any(bytes_set(p + i, n - i))) return true;
  }
  return false;
}

template <Dtype dtype>
Vec add_mask(const AttentionMask& mask, const void* at_key, float* s, int64_t n, Vec factor) {
  Vec top = splat(-INFINITY);
  for (int64_t i = 0; i < n; i += Vec::kWidth) {
    const Vec m = mask.column ? load_as<dtype>(at_key, i, n - i, 0) : splat(load_float(at_key, dtype, 0));
    const Vec added = select(equal(m, splat(-INFINITY)), m, larger(splat(kLowest), m * splat(kLog2e)));
    const Vec t = fma(load(s + i), factor, added);
    store(s + i, t);
    top = larger(top, load_as<kF32>(s, i, n - i, -INFINITY));
  }
  return top;
}

// Masks the n scores s of a row in place; returns maxima by lane. `factor` becomes what takes s to powers of two.
inline Vec mask_scores(const AttentionMask& mask, const void* row, int64_t key, float* s, int64_t n, Vec& factor) {
  Vec top = splat(-INFINITY);
  if (mask.kind == kFloatMask) {
    const void* at_key = offset(row, key * mask.column, mask.dtype);
    top = mask.dtype == kF32    ? add_mask<kF32>(mask, at_key, s, n, factor)
          : mask.dtype == kBF16 ? add_mask<kBF16>(mask, at_key, s, n, factor)
                                : add_mask<kF16>(mask, at_key, s, n, factor);
    factor = splat(1.0f);
    return top;
  }
  if (mask.kind == kBoolMask) {
    const uint8_t* keep = (const uint8_t*)row + key * mask.column;
    if (mask.column || !*keep) {
      for (int64_t i = 0; i < n; i += Vec::kWidth) {
        const Vec kept = mask.column ? select(bytes_set(keep + i, n - i), load(s + i), splat(-INFINITY)) : splat(-INFINITY);
        store(s + i, kept);
        top = larger(top, kept);
      }
      return top * factor;
    }
  }
  int64_t i = 0;
  for (; i + Vec::kWidth <= n; i += Vec::kWidth) top = larger(top, load(s + i));
  if (i < n) top = larger(top, load_as<kF32>(s, i, n - i, -INFINITY));
  return top * factor;
}

// The state of the rows of one pass over a key block.
struct Row {
  float *total, *sum, *exponent;
};

// Raises the exponent where scores ask for it; settle() comes before the totals are touched.
template <class Settle>
inline void follow(const Row& row, Vec top, int64_t columns, const Settle& settle) {
  if (!any(above(top, splat(*row.exponent + kSlack)))) return;
  const float largest = max_of(top), raised = largest > 0x1p23f || largest < -0x1p23f ? largest : nearbyintf(largest);
  if (*row.exponent > -INFINITY) {
    settle();
    float factor[Vec::kWidth];
    store(factor, times_power(splat(1.0f), splat(*row.exponent - raised)));
    scale_row(row.total, columns, factor[0]);
    scale_row(row.sum, Vec::kWidth, factor[0]);
  }
  *row.exponent = raised;
}

template <class Engine>
inline void weigh(Engine& engine, const Row& row, int64_t index, const float* s, int64_t n, int64_t width, Vec factor) {
  const Vec shift = splat(*row.exponent > -INFINITY ? -*row.exponent : 0.0f);
  Vec sum = load(row.sum), other = splat(0);
  int64_t i = 0;
  for (; i + 2 * Vec::kWidth <= n; i += 2 * Vec::kWidth) {
    const Vec p = exp2_of<Engine::kDegree>(fma(load(s + i), factor, shift));
    const Vec q = exp2_of<Engine::kDegree>(fma(load(s + i + Vec::kWidth), factor, shift));
    sum = sum + p;
    other = other + q;
    engine.put(index, i, p, q);
  }
  for (; i < Engine::padded(width); i += 2 * Vec::kWidth) {
    const Vec p = exp2_of<Engine::kDegree>(fma(load_as<kF32>(s, i, n - i, -INFINITY), factor, shift));
    const Vec q = exp2_of<Engine::kDegree>(fma(load_as<kF32>(s, i + Vec::kWidth, n - i - Vec::kWidth, -INFINITY), factor, shift));
    sum = sum + (p + q);
    engine.put(index, i, p, q);
  }
  sum = sum + other;
  store(row.sum, sum);
}

// Whether any of the rows sees any of the keys; rows of a block often share their mask.
inline bool any_seen(const AttentionBlock* b, int64_t from, int64_t to, int64_t key, int64_t count) {
  const AttentionMask& mask = b->call->mask;
  if (mask.kind != kBoolMask) return true;
  for (int64_t r = from; r < to; ++r) {
    if (r > from && b->rows[r].mask == b->rows[r - 1].mask) continue;
    if (bytes_any((const uint8_t*)b->rows[r].mask + key * mask.column, mask.column ? count : 1)) return true;
  }
  return false;
}

inline int64_t between(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

// Rows from ... to-1 against keys key ... key+width-1, of which at least one pair is seen.
struct Item {
  int64_t key, from, to, width;
};

// Goes to the next item, from `key` and `from` on; false past the last.
template <class Engine>
bool advance(const AttentionBlock* b, Item& item) {
  for (; item.key < b->last; item.key += kKeyBlock, item.from = 0) {
    for (; item.from < b->m; item.from += Engine::kRows) {
      item.to = between(item.from + Engine::kRows, 0, b->m);
      item.width = between(between(b->rows[item.to - 1].limit, 0, b->last) - item.key, 0, kKeyBlock);
      if (item.width > 0 && any_seen(b, item.from, item.to, item.key, item.width)) return true;
    }
  }
  return false;
}

// Engines give the sign of the scale to the queries, 0 included: what is left is never zero, since zero times a masked -infinity is NaN.
inline float size_of(float scale) {
  const float size = fabsf(scale) * kLog2e;
  return size < 0x1p-100f ? 0x1p-100f : size;
}
inline float sign_of(float scale) { return scale < 0 ? -1.0f : scale == 0 ? 0.0f : 1.0f; }

// What a block of rows carries from item to item.
struct RowState {
  const AttentionBlock* b;
  const int64_t columns;
  const float scale;
  float* sums;  // by lane

  static constexpr int64_t kBytes = kMostRows * 16 * 4;

  explicit RowState(const AttentionBlock* block)
      : b(block), columns(value_columns(b->call)), scale(size_of(b->call->scale)), sums((float*)b->scratch) {
    fill_zero(b->total, b->m * columns);
    fill_zero(sums, b->m * Vec::kWidth);
    for (int64_t r = 0; r < b->m; ++r) b->exponent[r] = -INFINITY;
  }
  // Scores of row r of the item become weights.
  template <class Engine, class Settle>
  void weigh_row(Engine& engine, const Item& item, int64_t r, const Settle& settle) {
    const Row row = {b->total + r * columns, sums + r * Vec::kWidth, b->exponent + r};
    const int64_t n = between(b->rows[r].limit - item.key, 0, item.width);
    float* s = engine.row(r - item.from);
    Vec factor = splat(scale);
    const Vec top = mask_scores(b->call->mask, b->rows[r].mask, item.key, s, n, factor);
    follow(row, top, columns, settle);
    weigh(engine, row, r - item.from, s, n, item.width, factor);
  }
  void finish() {
    for (int64_t r = 0; r < b->m; ++r) b->sum[r] = sum_of(load(sums + r * Vec::kWidth));
  }
};

template <class Engine>
void attend(const AttentionBlock* b) {
  RowState state(b);
  Engine engine(b, (char*)b->scratch + RowState::kBytes);
  for (Item item = {b->first, 0, 0, 0}; advance<Engine>(b, item); item.from += Engine::kRows) {
    engine.scores(item);
    for (int64_t r = item.from; r < item.to; ++r) state.weigh_row(engine, item, r, [] {});
    engine.accumulate(item);
  }
  state.finish();
}

}  // namespace
}  // namespace lowbit
