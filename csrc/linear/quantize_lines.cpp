// Weights to codes on lines: runtime/formats/affine.py.
#include <string.h>

#include "common/convert.h"
#include "linear/parallel.h"
#include "linear/prepare.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

float power_of_two(int exponent) {
  const int field = exponent + 127;
  return bits_float((uint32_t)(field < 0 ? 0 : field > 254 ? 254 : field) << 23);
}

// What a row is multiplied by, and its outer scale, for maxima of its groups.
struct Outer {
  float inverse, scale;
};
Outer outer_of(HalfLines, const float* most, int64_t groups) {
  float largest = 0;
  for (int64_t g = 0; g < groups; ++g) {
    if (float_bits(most[g]) < kInfBits && most[g] > largest) largest = most[g];
  }
  if (largest < kEmpty) return {0, 0};
  const int reach = (int)(float_bits(largest) >> 23) - 127 - 8;
  return {power_of_two(-reach), power_of_two(reach)};
}
Outer outer_of(IntegerLines, const float* most, int64_t groups) {
  uint32_t bits = 0;
  for (int64_t g = 0; g < groups; ++g) bits = float_bits(most[g]) > bits ? float_bits(most[g]) : bits;
  if (bits >= kInfBits) return {0, bits_float(0x7fc00000u)};
  const float largest = bits_float(bits);
  return largest < kEmpty ? Outer{0, 0} : Outer{127 / largest, largest / 127};
}

void store_line(const float* line, bool special, uint16_t* scale, uint16_t* minimum) {
  *scale = special ? 0x7e00 : float_to_f16(line[0]);
  *minimum = special ? 0x7e00 : float_to_f16(line[1]);
}
void store_line(const float* line, bool, uint8_t* scale, int8_t* minimum) {
  *scale = (uint8_t)line[0];
  *minimum = (int8_t)line[1];
}

float largest_magnitude(const float* v, int64_t count) {
  uint32_t bits = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = float_bits(v[i]) & 0x7fffffffu;
    bits = magnitude > bits ? magnitude : bits;
  }
  return bits_float(bits);
}

// A row of k numbers; v holds whole groups, the last one filled up with its last number.
template <class A>
float quantize_row(float* v, int64_t k, int64_t group, float* most, uint8_t* q, typename A::Scale* scale, typename A::Minimum* minimum) {
  const RowKernels& kernels = row_kernels();
  const int64_t groups = (k + group - 1) / group;
  for (int64_t i = k; i < groups * group; ++i) v[i] = v[k - 1];
  for (int64_t g = 0; g < groups; ++g) most[g] = largest_magnitude(v + g * group, group);
  const Outer outer = outer_of(typename A::Lines{}, most, groups);
  for (int64_t g = 0; g < groups; ++g) {
    const bool special = float_bits(most[g]) >= kInfBits;
    if (special) memset(v + g * group, 0, (size_t)group * 4);
    float line[2];
    uint8_t codes[128];
    kernels.fit(v + g * group, group, outer.inverse, A::kMost, A::kNested, line, codes);
    store_line(line, special, scale + g, minimum + g);
    memcpy(q + g * group, codes, (size_t)(k - g * group < group ? k - g * group : group));
  }
  return outer.scale;
}

}  // namespace

template <class A>
void quantize_lines(const Matrix& x, int64_t group, uint8_t* q, void* scale, void* minimum, float* outer) {
  const int64_t k = x.columns, groups = (k + group - 1) / group, kp = round_up(groups * group, kBlock), tasks = tasks_for(x.rows * k * 64);
  parallel_parts(tasks, x.rows, 1, 8, [&](int64_t begin, int64_t end) {
    float* v = scratch<float>(kRowSlot, kp);
    float* most = scratch<float>(kScaleSlot, groups);
    for (int64_t i = begin; i < end; ++i) {
      row_kernels().load(row_of(x, i), x.dtype, k, kp, v);
      outer[i] = quantize_row<A>(v, k, group, most, q + i * k, (typename A::Scale*)scale + i * groups, (typename A::Minimum*)minimum + i * groups);
    }
  });
}

#define INSTANCE(name, Format) \
  template void quantize_lines<Format>(const Matrix& x, int64_t group, uint8_t* q, void* scale, void* minimum, float* outer);
LOWBIT_LINES(INSTANCE)

}  // namespace lowbit
