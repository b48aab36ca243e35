// Many query rows in float32: key blocks are packed as K^T [e][kKeyBlock] and V [kKeyBlock][columns], both as floats.
#pragma once
#include "attention/flow.h"
#include "attention/micro.h"

namespace lowbit {
namespace {

inline int64_t panel_floats(const Attention* call) { return kKeyBlock * (call->e + value_columns(call)); }

int64_t panels_packed(const Attention* call) { return panel_floats(call) * 4; }

template <Dtype dtype>
void pack_as(const Attention* call, const KeyValues* from, int64_t first, int64_t count, float* packed) {
  constexpr int64_t W = Vec::kWidth;
  const int64_t columns = value_columns(call);
  for (int64_t key = 0, padded = round_up(count, 2 * W); key < padded; key += W) {
    for (int64_t i = 0; i < call->e; i += W) {
      Vec rows[W];
      for (int64_t j = 0; j < W; ++j) {
        const void* k = offset(from->k, (first + key + j) * call->k.row, dtype);
        rows[j] = key + j >= count ? splat(0) : i + W <= call->e ? load_as<dtype>(k, i) : load_as<dtype>(k, i, call->e - i, 0);
      }
      transpose(rows);
      for (int64_t j = 0; j < W && i + j < call->e; ++j) store(packed + (i + j) * kKeyBlock + key, rows[j]);
    }
  }
  for (int64_t key = 0; key < count; ++key) {
    const void* v = offset(from->v, (first + key) * call->v.row, dtype);
    float* row = packed + kKeyBlock * call->e + key * columns;
    for (int64_t i = 0; i < columns; i += W) {
      store(row + i, i + W <= call->ev ? load_as<dtype>(v, i) : i < call->ev ? load_as<dtype>(v, i, call->ev - i, 0) : splat(0));
    }
  }
}

void panels_pack(const Attention* call, const KeyValues* from, int64_t first, int64_t count, char* packed) {
  if (call->dtype == kF32) pack_as<kF32>(call, from, first, count, (float*)packed);
  else if (call->dtype == kBF16) pack_as<kBF16>(call, from, first, count, (float*)packed);
  else pack_as<kF16>(call, from, first, count, (float*)packed);
}

inline int64_t query_depth(const Attention* call) { return round_up(call->e, Vec::kWidth); }

// The queries as floats [m][query_depth] with the sign of the scale, zeros past e.
template <Dtype dtype>
void widen_query_as(const AttentionBlock* b, float* q) {
  const int64_t e = b->call->e;
  const Vec sign = splat(sign_of(b->call->scale));
  for (int64_t r = 0; r < b->m; ++r) {
    for (int64_t i = 0; i < e; i += Vec::kWidth, q += Vec::kWidth) store(q, load_as<dtype>(b->rows[r].q, i, e - i, 0) * sign);
  }
}

inline void widen_query(const AttentionBlock* b, float* q) {
  if (b->call->dtype == kF32) widen_query_as<kF32>(b, q);
  else if (b->call->dtype == kBF16) widen_query_as<kBF16>(b, q);
  else widen_query_as<kF16>(b, q);
}

struct Panels {
  static constexpr int64_t kRows = 5 * kMicroRows;
  static constexpr int kDegree = 5;
  static int64_t padded(int64_t width) { return width; }

  const AttentionBlock* b;
  const int64_t depth;
  float *q, *s;

  Panels(const AttentionBlock* block, char* scratch)
      : b(block), depth(query_depth(block->call)), q((float*)scratch), s(q + kMostRows * depth) {
    widen_query(b, q);
  }
  float* row(int64_t index) { return s + index * kKeyBlock; }
  void put(int64_t index, int64_t i, Vec x, Vec y) {
    store(row(index) + i, x);
    store(row(index) + i + Vec::kWidth, y);
  }
  const float* keys(int64_t key) const { return (const float*)b->source.packed + key / kKeyBlock * panel_floats(b->call); }

  void scores(const Item& item) {
    const int64_t e = b->call->e;
    multiply({q + item.from * depth, depth, keys(item.key), kKeyBlock, s, kKeyBlock, e, false}, item.to - item.from, round_up(item.width, 2 * Vec::kWidth));
  }
  void accumulate(const Item& item) {
    const int64_t columns = value_columns(b->call);
    const float* v = keys(item.key) + kKeyBlock * b->call->e;
    multiply({s, kKeyBlock, v, columns, b->total + item.from * columns, columns, item.width, true}, item.to - item.from, columns);
  }
};

int64_t panels_scratch(const Attention* call) { return RowState::kBytes + (kMostRows * query_depth(call) + Panels::kRows * kKeyBlock) * 4; }

constexpr AttentionKernels kPanels = {panels_packed, panels_pack, panels_scratch, attend<Panels>, scale_row, divide_row};

}  // namespace
}  // namespace lowbit
