// Few query rows, as in decoding: K and V are read once, where they are, in their own dtype.
#pragma once
#include "attention/panels.h"

namespace lowbit {
namespace {

constexpr int64_t kPair = 2 * Vec::kWidth;  // elements that are loaded as two vectors, in the dtype's own order

template <int n>
struct Int {
  static constexpr int value = n;
};

// How rows of K and V are stored: a pair at element i comes as the vectors load<0> and load<1>, in an order that queries share and in_order undoes.
template <Dtype dtype>
struct Floats {
  static constexpr int64_t kBytes = dtype == kF32 ? 4 : 2;
  static constexpr bool kScaled = false;
  template <int which>
  static Vec load(const void* row, int64_t i) { return load_part<dtype, which>(row, i); }
  template <int which>
  static Vec load(const void* row, int64_t i, int64_t count) { return load_part<dtype, which>(row, i, count); }
  static void in_order(Vec& x, Vec& y) { lowbit::in_order<dtype>(x, y); }
  template <int which>
  static Vec query(const void* row, Dtype, int64_t i, int64_t count) { return load_part<dtype, which>(row, i, count); }
};

// int8 codes: scores are multiplied by the scale of their key, weights by that of their value.
struct Codes {
  static constexpr int64_t kBytes = 1;
  static constexpr bool kScaled = true;
  template <int which>
  static Vec load(const void* row, int64_t i) { return load_bytes((const int8_t*)row + i + which * Vec::kWidth); }
  template <int which>
  static Vec load(const void* row, int64_t i, int64_t count) { return load_bytes((const int8_t*)row + i + which * Vec::kWidth, count - which * Vec::kWidth); }
  static void in_order(Vec&, Vec&) {}
  template <int which>
  static Vec query(const void* row, Dtype dtype, int64_t i, int64_t count) {
    const int64_t at = i + which * Vec::kWidth, left = count - which * Vec::kWidth;
    return dtype == kF32 ? load_as<kF32>(row, at, left, 0) : dtype == kBF16 ? load_as<kBF16>(row, at, left, 0) : load_as<kF16>(row, at, left, 0);
  }
};

template <class Stored>
struct InPlace {
  static constexpr int64_t kRows = kMicroRows;
  static constexpr int kDegree = 5;
  static int64_t padded(int64_t width) { return width; }

  const AttentionBlock* b;
  const int64_t depth;  // e in whole pairs
  float *q, *s;
  Item now = {};  // whose weights are put

  InPlace(const AttentionBlock* block, char* scratch) : b(block), depth(round_up(block->call->e, kPair)), q((float*)scratch), s(q + kMostRows * depth) {
    const Vec sign = splat(sign_of(b->call->scale));
    float* to = q;
    for (int64_t r = 0; r < b->m; ++r) {
      for (int64_t i = 0; i < depth; i += kPair, to += kPair) {
        store(to, Stored::template query<0>(b->rows[r].q, b->call->dtype, i, b->call->e - i) * sign);
        store(to + Vec::kWidth, Stored::template query<1>(b->rows[r].q, b->call->dtype, i, b->call->e - i) * sign);
      }
    }
  }
  float* row(int64_t index) { return s + index * kKeyBlock; }
  void put(int64_t index, int64_t i, Vec x, Vec y) {
    if (Stored::kScaled) {
      x = x * scale_of(b->source.v_scale, now, i);
      y = y * scale_of(b->source.v_scale, now, i + Vec::kWidth);
    }
    store(row(index) + i, x);
    store(row(index) + i + Vec::kWidth, y);
  }
  // sum[r][j] gets, by lane, the products of query r with key j. Each vector of a key serves all queries, each of a query all keys.
  template <int R, int J>
  void products(const float* query, const void* const* keys, Vec (*sum)[4]) {
    for (int r = 0; r < R; ++r) {
      for (int j = 0; j < J; ++j) sum[r][j] = splat(0);
    }
    const int64_t e = b->call->e, whole = e / kPair * kPair;
    for (int64_t i = 0; i < whole; i += kPair) {
      add_products<R, J>(query + i, sum, [&](int j) { return Stored::template load<0>(keys[j], i); });
      add_products<R, J>(query + i + Vec::kWidth, sum, [&](int j) { return Stored::template load<1>(keys[j], i); });
    }
    if (whole == e) return;
    add_products<R, J>(query + whole, sum, [&](int j) { return Stored::template load<0>(keys[j], whole, e - whole); });
    add_products<R, J>(query + whole + Vec::kWidth, sum, [&](int j) { return Stored::template load<1>(keys[j], whole, e - whole); });
  }
  template <int R, int J, class Load>
  void add_products(const float* query, Vec (*sum)[4], const Load& key) {
    Vec k[J];
    for (int j = 0; j < J; ++j) k[j] = key(j);
    for (int r = 0; r < R; ++r) {
      const Vec x = load(query + r * depth);
      for (int j = 0; j < J; ++j) sum[r][j] = fma(x, k[j], sum[r][j]);
    }
  }

  // Past the last key it counts once more: of places without a key nothing is read later.
  template <int R>
  void score(const Item& item) {
    constexpr int J = R * 4 <= kMicroRows * kMicroVecs ? 4 : 2;  // sums that fit the registers
    const float* query = q + item.from * depth;
    for (int64_t top = 0; top < item.width; top += Vec::kWidth) {
      Vec fours[R][Vec::kWidth / 4];
      for (int64_t four = 0; four < Vec::kWidth / 4; ++four) {
        const void* keys[4];
        for (int64_t j = 0; j < 4; ++j) {
          const int64_t at = top + 4 * four + j, key = item.key + (at < item.width ? at : item.width - 1);
          keys[j] = (const char*)b->source.k + key * b->call->k.row * Stored::kBytes;
        }
        Vec sum[R][4];
        for (int j = 0; j < 4; j += J) products<R, J>(query, keys + j, (Vec(*)[4])(sum[0] + j));
        for (int r = 0; r < R; ++r) fours[r][four] = sums_of_four(sum[r]);
      }
      const Vec scale = scale_of(b->source.k_scale, item, top);
      for (int r = 0; r < R; ++r) store(row(r) + top, Stored::kScaled ? sums_of_fours(fours[r]) * scale : sums_of_fours(fours[r]));
    }
  }
  // Of a vector of keys from `i` on.
  static Vec scale_of(const float* scales, const Item& item, int64_t i) {
    if (!Stored::kScaled) return splat(1);
    return i + Vec::kWidth <= item.width ? load(scales + item.key + i) : load_as<kF32>(scales + item.key, i, item.width - i, 0);
  }
  void scores(const Item& item) {
    now = item;
    with_rows(item, [&](auto rows) { score<rows.value>(item); });
  }

  template <int R, int C>
  void add_values(const Item& item, int64_t column) {
    const int64_t ev = b->call->ev;
    const void* v = (const char*)b->source.v + item.key * b->call->v.row * Stored::kBytes;
    if (column + C * Vec::kWidth <= ev) weigh_values<R, C>(item, column, v, [](auto which, const void* row, int64_t i) { return Stored::template load<which.value>(row, i); });
    else weigh_values<R, C>(item, column, v, [&](auto which, const void* row, int64_t i) { return Stored::template load<which.value>(row, i, ev - i); });
  }
  template <int R, int C, class Load>
  void weigh_values(const Item& item, int64_t column, const void* v, const Load& part) {
    const int64_t columns = value_columns(b->call), stride = b->call->v.row * Stored::kBytes;
    Vec sum[R][C];
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) sum[r][c] = splat(0);
    }
    for (int64_t j = 0; j < item.width; ++j, v = (const char*)v + stride) {
      Vec x[C];
      for (int c = 0; c < C; c += 2) {
        x[c] = part(Int<0>(), v, column + c * Vec::kWidth);
        x[c + 1] = part(Int<1>(), v, column + c * Vec::kWidth);
      }
      for (int r = 0; r < R; ++r) {
        const Vec weight = splat(s[r * kKeyBlock + j]);
        for (int c = 0; c < C; ++c) sum[r][c] = fma(weight, x[c], sum[r][c]);
      }
    }
    for (int r = 0; r < R; ++r) {
      float* total = b->total + (item.from + r) * columns + column;
      for (int c = 0; c < C; c += 2, total += kPair) {
        Stored::in_order(sum[r][c], sum[r][c + 1]);
        store(total, load(total) + sum[r][c]);
        store(total + Vec::kWidth, load(total + Vec::kWidth) + sum[r][c + 1]);
      }
    }
  }
  void accumulate(const Item& item) {
    with_rows(item, [&](auto rows) {
      const int64_t columns = value_columns(b->call);
      int64_t column = 0;
      for (; column + kMicroVecs * Vec::kWidth <= columns; column += kMicroVecs * Vec::kWidth) add_values<rows.value, kMicroVecs>(item, column);
      for (; column < columns; column += kPair) add_values<rows.value, 2>(item, column);
    });
  }

  template <class F>
  void with_rows(const Item& item, const F& f) {
    switch (item.to - item.from) {
      case 1: return f(Int<1 < kMicroRows ? 1 : kMicroRows>());
      case 2: return f(Int<2 < kMicroRows ? 2 : kMicroRows>());
      case 3: return f(Int<3 < kMicroRows ? 3 : kMicroRows>());
      case 4: return f(Int<4 < kMicroRows ? 4 : kMicroRows>());
      case 5: return f(Int<5 < kMicroRows ? 5 : kMicroRows>());
      default: return f(Int<kMicroRows>());
    }
  }
};

int64_t direct_packed(const Attention*) { return 0; }

int64_t direct_scratch(const Attention* call) { return RowState::kBytes + (kMostRows * round_up(call->e, kPair) + kMicroRows * kKeyBlock) * 4; }

void direct_block(const AttentionBlock* b) {
  if (b->call->dtype == kF32) attend<InPlace<Floats<kF32>>>(b);
  else if (b->call->dtype == kBF16) attend<InPlace<Floats<kBF16>>>(b);
  else attend<InPlace<Floats<kF16>>>(b);
}

constexpr AttentionKernels kDirect = {direct_packed, nullptr, direct_scratch, direct_block, scale_row, divide_row};
constexpr AttentionKernels kDirectCodes = {direct_packed, nullptr, direct_scratch, attend<InPlace<Codes>>, scale_row, divide_row};

}  // namespace
}  // namespace lowbit
