// Packed panels as floats [kp][16]. Include one of the vectors of csrc/vec first. Everything has internal linkage.
#pragma once
#include "common/types.h"
#include "formats/vectors.h"

namespace lowbit {
namespace {

constexpr int64_t kVecs = kPanel / Vec::kWidth;  // of the outputs of a panel

template <class F>
void unpack(const int8_t* panel, int64_t kp, int64_t group, float* w) {
  const int64_t span = F::span(kp, group);
  const float* scales = F::scales(panel, kp);
  for (int64_t start = 0; start < kp; start += span, scales += kPanel) {
    Vec scale[kVecs];
    for (int64_t v = 0; v < kVecs; ++v) scale[v] = load(scales + v * Vec::kWidth);
    for (int64_t k = start; k < start + span; k += F::kCodes) {
      for (int64_t v = 0; v < kVecs; ++v) {
        const Words words = load_words(panel + F::code_bytes(k) + v * Vec::kWidth * 4);
        for (int i = 0; i < F::kCodes; ++i) store(w + (k + i) * kPanel + v * Vec::kWidth, code(F{}, words, i) * scale[v]);
      }
    }
  }
}

// Codes of a word become numbers of a line, less the row's outer scale: floats, or integers that need no multiplication by it.
template <class Kind>
struct Line;

struct RealLine {
  Vec scale, minimum;
  void times(Vec outer) {
    scale = scale * outer;
    minimum = minimum * outer;
  }
  Words codes(Words quad) const { return quad; }
  Vec number(Words codes, int i) const { return fma(unsigned_byte(codes, i), scale, minimum); }
};

template <>
struct Line<HalfLines> : RealLine {
  Line(const uint16_t* scales, const uint16_t* minima) : RealLine{load_as<kF16>(scales, 0), load_as<kF16>(minima, 0)} {}
};

template <>
struct Line<FloatLines> : RealLine {
  Line(const float* scales, const float* minima) : RealLine{load(scales), load(minima)} {}
};

template <>
struct Line<IntegerLines> {
  Words scale, minimum;
  Vec outer = splat(1.0f);
  Line(const uint8_t* scales, const int8_t* minima) : scale(scales_of(scales)), minimum(minima_of(minima)) {}
  void times(Vec by) { outer = by; }
  Words codes(Words quad) const { return lines_of(quad, scale, minimum); }
  Vec number(Words codes, int i) const { return signed_bits(codes, 8 * i, 8) * outer; }
};

template <class Book>
struct Line<Lookup<Book>> {
  Vec scale;
  Line(const uint16_t* scales) : scale(load_as<kF16>(scales, 0)) {}
  void times(Vec outer) { scale = scale * outer; }
  Words codes(Words quad) const { return quad; }
  Vec number(Words codes, int i) const { return number_at(Book::kNumbers.of, shifted(codes, 8 * i)) * scale; }
};

// 32 of K lie in one group, and are half of a block. Where groups may have 16, as many are a step: whole lines but of planes of one bit.
constexpr int64_t kHalf = 32;

// A quad of the step that begins at k: a code in each byte of the words. `v`: of the vectors of a line.
template <class A>
inline Words quad_of(const int8_t* panel, int64_t k, int quad, int64_t v) {
  const int8_t* block = panel + k / kBlock * A::kBlockBytes + v * Vec::kWidth * 4;
  const int first = (int)(k % kBlock / 4);
  static_assert(kLeastGroup<A> == kHalf || A::kBits % 2 == 0, "a step of whole lines");
  Words made = no_words();
#pragma GCC unroll 4
  for (int width = 8, below = 0; width > 0; below += A::kBits & width, width /= 2) {
    if (!(A::kBits & width)) continue;
    const Words line = load_words(block + A::plane_at(below) + A::line_of(width, first) + A::line_of(width, quad));
    const uint32_t mask = (0x01010101u * ((1u << width) - 1)) << below;
    const Words bits = width == 8 ? line : masked(shifted(line, A::shift_of(width, quad) - below), mask);
    made = below ? joined(made, bits) : bits;
  }
  return made;
}

// What is read after a panel, the first of `left`: the next one, or what follows the last where that is known.
inline const int8_t* next_panel(const int8_t* panel, int64_t bytes, int64_t left, const Fetch& fetch) {
  return left > 1 || !fetch.after ? panel + bytes : (const int8_t*)fetch.after;
}

// Asks for what lies at the same place of the next panel: it comes to L2 while this one is read.
template <class A, int64_t kStep>
inline void fetch_codes(const int8_t* next, int64_t k) {
  constexpr int64_t kBytes = A::kBlockBytes * kStep / kBlock;
  for (int64_t b = 0; b < kBytes; b += kLine) __builtin_prefetch(next + k / kStep * kBytes + b, 0, 2);
}
template <class A>
inline void fetch_line(const int8_t* next, int64_t kp, int64_t group, int64_t g) {
  if constexpr (A::kGrouped) __builtin_prefetch(A::scales(next, kp) + g * kPanel, 0, 2);
  if constexpr (A::kMinima) __builtin_prefetch(A::minima(next, kp, group) + g * kPanel, 0, 2);
}

// The line of the group of k in vector v.
template <class A>
inline Line<typename A::Lines> line_at(const int8_t* panel, int64_t kp, int64_t group, int64_t k, int64_t v) {
  const int64_t at = k / group * kPanel + v * Vec::kWidth;
  if constexpr (A::kMinima) return {A::scales(panel, kp) + at, A::minima(panel, kp, group) + at};
  else return {A::scales(panel, kp) + at};
}

template <class A, int64_t kStep>
void unpack_steps(const int8_t* panel, int64_t kp, int64_t group, float* w) {
  for (int64_t v = 0; v < kVecs; ++v) {
    const Vec outer = load(A::outer(panel, kp, group) + v * Vec::kWidth);
    for (int64_t k = 0; k < kp; k += kStep) {
      Line<typename A::Lines> line = line_at<A>(panel, kp, group, k, v);
      line.times(outer);
      float* to = w + k * kPanel + v * Vec::kWidth;
#pragma GCC unroll 8
      for (int quad = 0; quad < kStep / 4; ++quad) {
        const Words codes = line.codes(quad_of<A>(panel, k, quad, v));
        for (int i = 0; i < 4; ++i) store(to + (4 * quad + i) * kPanel, line.number(codes, i));
      }
    }
  }
}

template <class A>
void unpack_lines(const int8_t* panel, int64_t kp, int64_t group, float* w) {
  group < kHalf ? unpack_steps<A, kLeastGroup<A>>(panel, kp, group, w) : unpack_steps<A, kHalf>(panel, kp, group, w);
}

}  // namespace
}  // namespace lowbit
