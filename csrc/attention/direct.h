// Few query rows, as in decoding: K and V are read once, where they are, in their own dtype.
#pragma once
#include "attention/panels.h"

namespace lowbit {
namespace {

template <Dtype dtype>
struct InPlace {
  static constexpr int64_t kRows = kMicroRows;
  static constexpr int kDegree = 5;
  static constexpr int64_t kKeys = Vec::kWidth;  // keys whose rows wait as floats in L1
  static int64_t padded(int64_t width) { return width; }

  const AttentionBlock* b;
  const int64_t depth;  // e in whole vectors
  float *q, *s, *wide;

  InPlace(const AttentionBlock* block, char* scratch) : b(block), depth(query_depth(block->call)) {
    q = (float*)scratch;
    s = q + kMostRows * depth;
    wide = s + kRows * kKeyBlock;
    widen_query_as<dtype>(b, q);
  }
  float* row(int64_t index) { return s + index * kKeyBlock; }
  void put(int64_t index, int64_t i, Vec x, Vec y) {
    store(row(index) + i, x);
    store(row(index) + i + Vec::kWidth, y);
  }

  void scores(const Item& item) {
    const Attention* call = b->call;
    for (int64_t top = 0; top < item.width; top += kKeys) {
      const int64_t count = item.width - top < kKeys ? item.width - top : kKeys;
      for (int64_t j = 0; j < count; ++j) {
        const void* k = offset(b->source.k, (item.key + top + j) * call->k.row, dtype);
        int64_t i = 0;
        for (; i + Vec::kWidth <= call->e; i += Vec::kWidth) store(wide + j * depth + i, load_as<dtype>(k, i));
        if (i < call->e) store(wide + j * depth + i, load_as<dtype>(k, i, call->e - i, 0));
      }
      for (int64_t r = item.from; r < item.to; ++r) store(row(r - item.from) + top, dots(q + r * depth));
    }
  }
  // The product of a query with each of the waiting keys; of places without a key nothing is read later.
  Vec dots(const float* query) {
    Vec sum[kKeys];
    for (int64_t j = 0; j < kKeys; ++j) sum[j] = splat(0);
    for (int64_t i = 0; i < depth; i += Vec::kWidth) {
      const Vec x = load(query + i);
      for (int64_t j = 0; j < kKeys; ++j) sum[j] = fma(x, load(wide + j * depth + i), sum[j]);
    }
    return sums_of(sum);
  }

  template <int R>
  void add_values(const Item& item, int64_t column) {
    constexpr int C = 2;
    const int64_t columns = value_columns(b->call);
    Vec sum[R][C];
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) sum[r][c] = load(b->total + (item.from + r) * columns + column + c * Vec::kWidth);
    }
    const int64_t left = b->call->ev - column;
    for (int64_t j = 0; j < item.width; ++j) {
      const void* v = offset(b->source.v, (item.key + j) * b->call->v.row, dtype);
      Vec x[C];
      if (left >= C * Vec::kWidth) {
        for (int c = 0; c < C; ++c) x[c] = load_as<dtype>(v, column + c * Vec::kWidth);
      } else {
        for (int c = 0; c < C; ++c) x[c] = load_as<dtype>(v, column + c * Vec::kWidth, left - c * Vec::kWidth, 0);
      }
      for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) sum[r][c] = fma(splat(s[r * kKeyBlock + j]), x[c], sum[r][c]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) store(b->total + (item.from + r) * columns + column + c * Vec::kWidth, sum[r][c]);
    }
  }
  void accumulate(const Item& item) {
    for (int64_t column = 0; column < b->call->ev; column += 2 * Vec::kWidth) {
      switch (item.to - item.from) {
        case 1: add_values<1>(item, column); break;
        case 2: add_values<2>(item, column); break;
        case 3: add_values<3>(item, column); break;
        case 4: add_values<4>(item, column); break;
        case 5: add_values<5>(item, column); break;
        default: add_values<kMicroRows>(item, column);
      }
    }
  }
};

int64_t direct_packed(const Attention*) { return 0; }

int64_t direct_scratch(const Attention* call) {
  const int64_t depth = query_depth(call);
  return RowState::kBytes + (kMostRows * depth + kMicroRows * kKeyBlock + Vec::kWidth * depth) * 4;
}

void direct_block(const AttentionBlock* b) {
  if (b->call->dtype == kF32) attend<InPlace<kF32>>(b);
  else if (b->call->dtype == kBF16) attend<InPlace<kBF16>>(b);
  else attend<InPlace<kF16>>(b);
}

constexpr AttentionKernels kDirect = {direct_packed, nullptr, direct_scratch, direct_block, scale_row, divide_row};

}  // namespace
}  // namespace lowbit
