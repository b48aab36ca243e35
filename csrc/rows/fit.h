// The line of a group of weights by least squares, and its codes: runtime/formats/lines.py, in the same order. Sums are trees of halves, which
// vectors of any width add up alike. Include one of the vectors of csrc/vec first.
#pragma once
#include "common/convert.h"

namespace lowbit {
namespace {

constexpr float kShrunk[] = {0.8f, 0.9f, 1.0f};
constexpr int kRounds = 2;
constexpr float kToWhole = 0x1.8p23f;  // added and taken off, it leaves the nearest whole number, ties to even

inline float whole(float x) { return (x + kToWhole) - kToWhole; }

struct GroupLine {
  float scale, minimum;
};

// The nearest one that can be stored.
inline GroupLine half_line(GroupLine line) { return {f16_to_float(float_to_f16(line.scale)), f16_to_float(float_to_f16(line.minimum))}; }
inline GroupLine integer_line(GroupLine line, int largest) {
  const float most = (float)(254 / largest), scale = whole(line.scale), clamped = scale < 0 ? 0 : scale > most ? most : scale;
  const float low = whole(line.minimum) < -127 ? -127 : whole(line.minimum), high = 127 - (float)largest * clamped;
  return {clamped, low > high ? high : low};
}

template <int kSize>
struct FitGroup {
  static constexpr int kCount = kSize / (int)Vec::kWidth;
  Vec v[kCount];
  int largest;
  bool integers;

  // The sum of f(0) ... f(kCount - 1), lanes and all.
  template <class F>
  static inline float sum(const F& f) {
    Vec term[kCount];
    for (int j = 0; j < kCount; ++j) term[j] = f(j);
    for (int half = kCount / 2; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) term[j] = term[j] + term[j + half];
    }
    return sum_of(term[0]);
  }
  GroupLine stored(GroupLine line) const { return integers ? integer_line(line, largest) : half_line(line); }
  void codes(GroupLine line, Vec* q) const {
    const Vec inverse = splat(line.scale > 0 ? 1.0f / line.scale : 0.0f), minimum = splat(line.minimum), most = splat((float)largest);
    for (int j = 0; j < kCount; ++j) {
      const Vec u = smaller(larger((v[j] - minimum) * inverse, splat(0.0f)), most);
      q[j] = (u + splat(kToWhole)) - splat(kToWhole);
    }
  }
  float error(GroupLine line) const {
    Vec q[kCount];
    codes(line, q);
    return sum([&](int j) {
      const Vec off = splat(line.scale) * q[j] + splat(line.minimum) - v[j];
      return off * off;
    });
  }
  GroupLine least_squares(GroupLine line) const {
    Vec q[kCount];
    codes(line, q);
    const Vec mean_q = splat(sum([&](int j) { return q[j]; }) / kSize), mean_v = splat(sum([&](int j) { return v[j]; }) / kSize);
    const float spread = sum([&](int j) { return (q[j] - mean_q) * (q[j] - mean_q); });
    const float slope = sum([&](int j) { return (q[j] - mean_q) * (v[j] - mean_v); }) / spread;
    if (!(spread > 0 && slope > 0)) return line;
    float first_q[Vec::kWidth], first_v[Vec::kWidth];
    store(first_q, mean_q);
    store(first_v, mean_v);
    return {slope, first_v[0] - slope * first_q[0]};
  }
  GroupLine best() const {
    Vec high = v[0], low = v[0];
    for (int j = 1; j < kCount; ++j) {
      high = larger(high, v[j]);
      low = smaller(low, v[j]);
    }
    const float most = max_of(high), least = -max_of(splat(0.0f) - low), step = (most - least) / (float)largest;
    GroupLine found = stored({step, least});
    float smallest = error(found);
    for (float share : kShrunk) {
      GroupLine line = {step * share, (least + most) / 2 - step * share * ((float)largest / 2)};
      for (int round = 0; round < kRounds; ++round) {
        line = least_squares(line);
        const GroupLine candidate = stored(line);
        const float off = error(candidate);
        if (off < smallest) {
          smallest = off;
          found = candidate;
        }
      }
    }
    return found;
  }
};

template <int kSize>
void fit_of(const float* v, float inverse, int largest, bool integers, float* line, uint8_t* q) {
  FitGroup<kSize> group;
  group.largest = largest;
  group.integers = integers;
  for (int j = 0; j < group.kCount; ++j) group.v[j] = load(v + j * Vec::kWidth) * splat(inverse);
  const GroupLine found = group.best();
  line[0] = found.scale;
  line[1] = found.minimum;
  Vec codes[FitGroup<kSize>::kCount];
  group.codes(found, codes);
  for (int j = 0; j < group.kCount; ++j) {
    float number[Vec::kWidth];
    store(number, codes[j]);
    for (int64_t i = 0; i < Vec::kWidth; ++i) q[j * Vec::kWidth + i] = (uint8_t)number[i];
  }
}

void fit(const float* v, int64_t size, float inverse, int largest, bool integers, float* line, uint8_t* q) {
  if (size == 32) return fit_of<32>(v, inverse, largest, integers, line, q);
  return size == 64 ? fit_of<64>(v, inverse, largest, integers, line, q) : fit_of<128>(v, inverse, largest, integers, line, q);
}

}  // namespace
}  // namespace lowbit
