// Exponentials as pairs (m, n) of value m * 2^n (Dukhan and Ablavatski, arXiv 2001.04438). Include one of the vectors first.
#pragma once

namespace lowbit {
namespace {

struct Pair {
  Vec m, n;
};

// e^x with m in [0.7071, 1.4143], n integral; 2 ulp for |x| <= 2^18. Adding 1.5 * 2^23 rounds to an integer; NaN gives NaN in both.
inline Pair exp_pair(Vec x) {
  const Vec n = fma(x, splat(0x1.715476p+0f), splat(0x1.8p23f)) - splat(0x1.8p23f);
  const Vec t = fma(n, splat(0x1.05C61p-29f), fma(n, splat(-0x1.62E43p-1f), x));
  Vec m = fma(splat(0x1.0F9F9Cp-7f), t, splat(0x1.573A1Ap-5f));
  m = fma(m, t, splat(0x1.555A80p-3f));
  m = fma(m, t, splat(0x1.FFFDC6p-2f));
  m = fma(m, t, splat(0x1.FFFFF6p-1f));
  return {fma(m, t, splat(1.0f)), n};
}

// 2^t for any t, minimax in the relative error: 9.4e-8 for degree 5, 7.5e-5 (a quarter of bfloat16's rounding) for degree 3.
template <int degree>
inline Vec exp2_of(Vec t) {
  static_assert(degree == 3 || degree == 5, "coefficients of degree 3 and 5");
  Vec n, m;
  const Vec f = fraction(t, n);
  if (degree == 5) {
    m = fma(splat(0x1.e975p-10f), f, splat(0x1.277854p-7f));
    m = fma(m, f, splat(0x1.c91ce6p-5f));
    m = fma(m, f, splat(0x1.ebdb56p-3f));
    m = fma(m, f, splat(0x1.62e4bap-1f));
    m = fma(m, f, splat(1.0f));
  } else {
    m = fma(splat(0x1.3f96a4p-4f), f, splat(0x1.cefc4ep-3f));
    m = fma(m, f, splat(0x1.64444ap-1f));
    m = fma(m, f, splat(0x1.fff632p-1f));
  }
  return scaled(m, n);
}

}  // namespace
}  // namespace lowbit
