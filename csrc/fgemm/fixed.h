// A few rows in 16-bit fixed point times weights in planes of bits: integers within a group, exact, then its scale and minimum. How codes meet the
// numbers of a row is up to the ISA: S, the sums of one row with a vector of outputs, adds four of K. Include one of the vectors of csrc/vec first.
#pragma once
#include "fgemm/loop.h"

namespace lowbit {
namespace {

inline Vec numbers(const uint16_t* p) { return load_as<kF16>(p, 0); }
inline Vec numbers(const float* p) { return load(p); }
inline Vec numbers(const uint8_t* p) { return load_bytes((const int8_t*)p); }  // scales of 4 bits or more are below 128
inline Vec numbers(const int8_t* p) { return load_bytes(p); }

// What the integers that stand for codes count for in a row's sum, before its outer scale: scale * integer + minimum.
struct Slope {
  Vec scale, minimum;
};
template <int kBits, class Lines>
inline Slope slope_at(Affine<kBits, Lines>, const int8_t* panel, int64_t kp, int64_t group, int64_t at) {
  typedef Affine<kBits, Lines> A;
  return {numbers(A::scales(panel, kp) + at), numbers(A::minima(panel, kp, group) + at)};
}
template <class Book>
inline Slope slope_at(Coded<Book>, const int8_t* panel, int64_t kp, int64_t, int64_t at) {
  const Vec scale = numbers(Coded<Book>::scales(panel, kp) + at);
  return {scale * splat(Book::kUnit), scale * splat(Book::kLeast)};
}
inline Slope slope_at(TernaryGroups, const int8_t* panel, int64_t kp, int64_t, int64_t at) {
  const Vec scale = load(TernaryGroups::scales(panel, kp) + at);
  return {scale, splat(0.0f) - scale};
}
inline Slope slope_at(Ternary, const int8_t*, int64_t, int64_t, int64_t) { return {splat(1.0f), splat(-1.0f)}; }

template <class A>
inline Vec outer_at(A, const int8_t* panel, int64_t kp, int64_t group, int64_t at) { return load(A::outer(panel, kp, group) + at); }
inline Vec outer_at(TernaryGroups, const int8_t*, int64_t, int64_t, int64_t) { return splat(1.0f); }
inline Vec outer_at(Ternary, const int8_t* panel, int64_t kp, int64_t, int64_t at) { return load(Ternary::scales(panel, kp) + at); }

// Sums of codes; of a codebook those of the integers that are its numbers.
template <class A, class S>
struct Sums : S {};
template <class Book, class S>
struct Sums<Coded<Book>, S> {
  S high, low;
  void add(Words codes, const int16_t* x) {
    high.add(looked_up(Book::kHigh.of, codes), x);
    if constexpr (Book::kFine) low.add(looked_up(Book::kLow.of, codes), x);
  }
  Vec total() const { return Book::kFine ? fma(high.total(), splat(256.0f), low.total()) : high.total(); }
};

// Adds a step of K that begins at k; `x` are those of the first row.
template <class A, int64_t kStep, int M, class S>
inline void add_step(const int8_t* panel, int64_t k, int64_t v, const int16_t* x, int64_t ldx, S* sums) {
#pragma GCC unroll 8
  for (int quad = 0; quad < kStep / 4; ++quad) {
    const Words codes = quad_of<A>(panel, k, quad, v);
    for (int i = 0; i < M; ++i) sums[i].add(codes, x + i * ldx + 4 * quad);
  }
}

template <class A, int64_t kStep, class S, int M>
void fixed_rows(const FgemmArgs* args, int64_t row, int64_t p) {
  const int64_t kp = args->kp, group = args->group, groups = kp / group;
  const int8_t* panel = args->w + p * A::bytes(kp, group);
  const int8_t* next = next_panel(panel, A::bytes(kp, group), args->panels - p, args->fetch);
  const int16_t* x = (const int16_t*)args->x + row * args->ldx;
  const float* spans = args->spans + row * groups * 2;
  Vec result[M][kVecs];
  for (int64_t v = 0; v < kVecs; ++v) {
    Vec total[M];
    for (int i = 0; i < M; ++i) total[i] = splat(0.0f);
    for (int64_t g = 0; g < groups; ++g) {
      Sums<A, S> sums[M];
      for (int64_t k = g * group; k < (g + 1) * group; k += kStep) {
        fetch_codes<A, kStep>(next, k);
        add_step<A, kStep, M>(panel, k, v, x + k, args->ldx, sums);
      }
      fetch_line<A>(next, kp, group, g);
      const Slope slope = slope_at(A{}, panel, kp, group, g * kPanel + v * Vec::kWidth);
      for (int i = 0; i < M; ++i) {
        const float* span = spans + (i * groups + g) * 2;
        total[i] = fma(slope.minimum, splat(span[1]), fma(slope.scale, sums[i].total() * splat(span[0]), total[i]));
      }
    }
    const Vec outer = outer_at(A{}, panel, kp, group, v * Vec::kWidth);
    for (int i = 0; i < M; ++i) result[i][v] = total[i] * outer;
  }
  for (int i = 0; i < M; ++i) finish(args, row + i, p, result[i]);
}

template <class A, int64_t kStep, class S>
void fixed_steps(const FgemmArgs* args) {
  for (int64_t p = 0; p < args->panels; ++p) {
    int64_t i = 0;
    for (; i + 4 <= args->m; i += 4) fixed_rows<A, kStep, S, 4>(args, i, p);
    for (; i + 2 <= args->m; i += 2) fixed_rows<A, kStep, S, 2>(args, i, p);
    if (i < args->m) fixed_rows<A, kStep, S, 1>(args, i, p);
  }
}

template <class A, class S>
void fixed_product(const FgemmArgs* args) {
  args->group < kHalf ? fixed_steps<A, kLeastGroup<A>, S>(args) : fixed_steps<A, kHalf, S>(args);
}

}  // namespace
}  // namespace lowbit
