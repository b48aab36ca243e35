// Row primitives, for every ISA. Include one of the vectors of csrc/vec first.
#pragma once
#include "common/convert.h"
#include "rows/draw.h"
#include "rows/fit.h"
#include "rows/prologue.h"

namespace lowbit {
namespace {

uint32_t maximum(const float* v, int64_t kp) {
  Words a = {}, b = a;
  for (int64_t i = 0; i < kp; i += 2 * Vec::kWidth) {
    a = larger(a, magnitude(load(v + i)));
    b = larger(b, magnitude(load(v + i + Vec::kWidth)));
  }
  return max_of(larger(a, b));
}

template <Dtype dtype>
uint32_t load_of(const void* row, int64_t k, int64_t kp, float* v) {
  Words a = {}, b = a;
  int64_t i = 0;
  for (; i + 2 * Vec::kWidth <= k; i += 2 * Vec::kWidth) {
    const Vec x = load_as<dtype>(row, i), y = load_as<dtype>(row, i + Vec::kWidth);
    store(v + i, x);
    store(v + i + Vec::kWidth, y);
    a = larger(a, magnitude(x));
    b = larger(b, magnitude(y));
  }
  for (; i < kp; i += Vec::kWidth) {
    const Vec x = load_as<dtype>(row, i, k - i, 0.0f);
    store(v + i, x);
    a = larger(a, magnitude(x));
  }
  return max_of(larger(a, b));
}

uint32_t load(const void* row, Dtype dtype, int64_t k, int64_t kp, float* v) {
  if (dtype == kF32) return load_of<kF32>(row, k, kp, v);
  return dtype == kBF16 ? load_of<kBF16>(row, k, kp, v) : load_of<kF16>(row, k, kp, v);
}

template <int... halves>
inline Vec butterflies(Vec x) {
  ((x = butterfly<halves>(x)), ...);
  return x;
}

uint32_t rotate(float* v, int64_t kp) {
  constexpr int kVecs = (int)(kBlock / Vec::kWidth);
  Words a = {};
  for (int64_t i = 0; i < kp; i += kBlock) {
    Vec r[kVecs];
    for (int j = 0; j < kVecs; ++j) {
      const Vec x = load(v + i + j * Vec::kWidth) * splat(0.125f);
      r[j] = Vec::kWidth == 16 ? butterflies<1, 2, 4, 8>(x) : Vec::kWidth == 8 ? butterflies<1, 2, 4>(x) : butterflies<1, 2>(x);
    }
    for (int half = 1; half < kVecs; half *= 2) {
      for (int j = 0; j < kVecs; ++j) {
        if (j & half) continue;
        const Vec x = r[j], y = r[j + half];
        r[j] = x + y;
        r[j + half] = x - y;
      }
    }
    for (int j = 0; j < kVecs; ++j) {
      store(v + i + j * Vec::kWidth, r[j]);
      a = larger(a, magnitude(r[j]));
    }
  }
  return max_of(a);
}

// |v * inverse| < 127.5, so no conversion ever cuts.
void codes(const float* v, int64_t kp, float inverse, uint8_t flip, int8_t* q, int64_t step) {
  constexpr int64_t kAtOnce = 4 * Vec::kWidth;
  for (int64_t i = 0; i < kp; i += kAtOnce) {
    Words c[4];
    for (int64_t j = 0; j < 4; ++j) c[j] = rounded(load(v + i + j * Vec::kWidth) * splat(inverse));
    store_bytes(q + i / kBlock * step + i % kBlock, c, flip);
  }
}

int64_t above(const float* v, int64_t kp, float cut, int64_t capacity, int32_t* index) {
  const Vec bound = splat(cut);
  int64_t found = 0;
  for (int64_t i = 0; i < kp; i += 64) {
    uint64_t mask = 0;
    for (int64_t j = 0; j < 64; j += Vec::kWidth) mask |= (uint64_t)bits_of(above(absolute(load(v + i + j)), bound)) << j;
    for (; mask; mask &= mask - 1) {
      if (found++ == capacity) return found;
      index[found - 1] = (int32_t)(i + __builtin_ctzll(mask));
    }
  }
  return found;
}

void reach(const float* v, int64_t kp, float threshold, uint8_t* hit) {
  const Vec bound = splat(threshold);
  for (int64_t i = 0; i < kp; i += Vec::kWidth) set_bytes(hit + i, at_least(absolute(load(v + i)), bound));
}

void store_pairs(const uint32_t* code, int64_t count, uint32_t* to) {
  for (int64_t i = 0; i < count; i += 4, to += 2) {
    to[0] = (code[i] & 0xffffu) | code[i + 2] << 16;
    to[1] = (code[i + 1] & 0xffffu) | code[i + 3] << 16;
  }
}

// The low byte of v counts as signed, so the high one is that of v + 128.
void store_split(const uint32_t* code, int64_t count, uint32_t* to) {
  for (int64_t i = 0; i < count; i += 4, to += 2) {
    uint32_t high = 0, low = 0;
    for (int j = 0; j < 4; ++j) {
      high |= ((code[i + j] + 128) >> 8 & 255) << 8 * j;
      low |= (code[i + j] & 255) << 8 * j;
    }
    to[0] = high;
    to[1] = low;
  }
}

bool fixed(const float* v, int64_t kp, int64_t group, bool bytes, int16_t* q, float* spans) {
  uint32_t code[128];  // of the largest group
  for (int64_t k = 0; k < kp; k += group, spans += 2) {
    Words a = {};
    Vec sum = splat(0.0f);
    for (int64_t i = k; i < k + group; i += Vec::kWidth) {
      a = larger(a, magnitude(load(v + i)));
      sum = sum + load(v + i);
    }
    const float most = bits_float(max_of(a));
    if (most != 0 && !(most >= kFixedLeast && most <= kFixedMost)) return false;
    const Vec inverse = splat(most == 0 ? 0 : kFixedLargest / most);
    for (int64_t i = 0; i < group; i += Vec::kWidth) {
      const Words integers = rounded(load(v + k + i) * inverse);
      memcpy(code + i, &integers, sizeof(integers));
    }
    bytes ? store_split(code, group, (uint32_t*)(q + k)) : store_pairs(code, group, (uint32_t*)(q + k));
    spans[0] = most / kFixedLargest;
    spans[1] = sum_of(sum);
  }
  return true;
}

template <Dtype dtype>
void save_as(const float* v, int64_t k, void* row) {
  int64_t i = 0;
  for (; i + Vec::kWidth <= k; i += Vec::kWidth) store_as<dtype>(row, i, load(v + i));
  if (i < k) store_as<dtype>(row, i, k - i, load(v + i));
}

void save(const float* v, int64_t k, Dtype dtype, void* row) {
  if (dtype == kF32) return save_as<kF32>(v, k, row);
  return dtype == kBF16 ? save_as<kBF16>(v, k, row) : save_as<kF16>(v, k, row);
}

constexpr RowKernels kRowKernels = {load, maximum, rotate, codes, above, reach, apply_prologue, fixed, fit, save,
                                     draw, column_maxima, draw_columns, panel_of_rows, panel_of_columns};

}  // namespace
}  // namespace lowbit
