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

template <Dtype dtype>
struct InPlace {
  static constexpr int64_t kRows = kMicroRows;
  static constexpr int kDegree = 5;
  static int64_t padded(int64_t width) { return width; }

  const AttentionBlock* b;
  const int64_t depth;  // e in whole pairs
  float *q, *s;

  InPlace(const AttentionBlock* block, char* scratch) : b(block), depth(round_up(block->call->e, kPair)), q((float*)scratch), s(q + kMostRows * depth) {
    const Vec sign = splat(sign_of(b->call->scale));
    float* to = q;
    for (int64_t r = 0; r < b->m; ++r) {
      for (int64_t i = 0; i < depth; i += kPair, to += kPair) {
        store(to, part<0>(b->rows[r].q, i, b->call->e) * sign);
        store(to + Vec::kWidth, part<1>(b->rows[r].q, i, b->call->e) * sign);
      }
    }
  }
  float* row(int64_t index) { return s + index * kKeyBlock; }
  void put(int64_t index, int64_t i, Vec x, Vec y) {
    store(row(index) + i, x);
    store(row(index) + i + Vec::kWidth, y);
  }
  // One vector of the pair at element i of a row of n, zeros past its end.
  template <int which>
  static Vec part(const void* row, int64_t i, int64_t n) {
    return i + kPair <= n ? load_part<dtype, which>(row, i) : load_part<dtype, which>(row, i, n - i);
  }

  // sum[r][j] gets, by lane, the products of query r with key j. Each vector of a key serves all queries, each of a query all keys.
  template <int R, int J>
  void products(const float* query, const void* const* keys, Vec (*sum)[4]) {
    for (int r = 0; r < R; ++r) {
      for (int j = 0; j < J; ++j) sum[r][j] = splat(0);
    }
    const int64_t e = b->call->e, whole = e / kPair * kPair;
    for (int64_t i = 0; i < whole; i += kPair) {
      add_products<R, J>(query + i, sum, [&](int j) { return load_part<dtype, 0>(keys[j], i); });
      add_products<R, J>(query + i + Vec::kWidth, sum, [&](int j) { return load_part<dtype, 1>(keys[j], i); });
    }
    if (whole == e) return;
    add_products<R, J>(query + whole, sum, [&](int j) { return load_part<dtype, 0>(keys[j], whole, e - whole); });
    add_products<R, J>(query + whole + Vec::kWidth, sum, [&](int j) { return load_part<dtype, 1>(keys[j], whole, e - whole); });
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
          keys[j] = offset(b->source.k, key * b->call->k.row, dtype);
        }
        Vec sum[R][4];
        for (int j = 0; j < 4; j += J) products<R, J>(query, keys + j, (Vec(*)[4])(sum[0] + j));
        for (int r = 0; r < R; ++r) fours[r][four] = sums_of_four(sum[r]);
      }
      for (int r = 0; r < R; ++r) store(row(r) + top, sums_of_fours(fours[r]));
    }
  }
  void scores(const Item& item) {
    with_rows(item, [&](auto rows) { score<rows.value>(item); });
  }

  template <int R, int C>
  void add_values(const Item& item, int64_t column) {
    const int64_t ev = b->call->ev;
    const void* v = offset(b->source.v, item.key * b->call->v.row, dtype);
    if (column + C * Vec::kWidth <= ev) weigh_values<R, C>(item, column, v, [](auto which, const void* row, int64_t i) { return load_part<dtype, which.value>(row, i); });
    else weigh_values<R, C>(item, column, v, [&](auto which, const void* row, int64_t i) { return load_part<dtype, which.value>(row, i, ev - i); });
  }
  template <int R, int C, class Load>
  void weigh_values(const Item& item, int64_t column, const void* v, const Load& part) {
    const int64_t columns = value_columns(b->call), stride = b->call->v.row * element_size(dtype);
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
        in_order<dtype>(sum[r][c], sum[r][c + 1]);
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
  if (b->call->dtype == kF32) attend<InPlace<kF32>>(b);
  else if (b->call->dtype == kBF16) attend<InPlace<kBF16>>(b);
  else attend<InPlace<kF16>>(b);
}

constexpr AttentionKernels kDirect = {direct_packed, nullptr, direct_scratch, direct_block, scale_row, divide_row};

}  // namespace
}  // namespace lowbit
