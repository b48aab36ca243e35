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

// 2^t, minimax in the relative error: 1.1e-7 for degree 5, 7.5e-5 (a quarter of bfloat16's rounding) for degree 3.
template <int degree>
inline Vec exp2_of(Vec t) {
  static_assert(degree == 3 || degree == 5, "coefficients of degree 3 and 5");
  const Vec n = nearest(t), f = t - n;
  Vec m;
  if (degree == 5) {
    m = fma(splat(0x1.5bba14p-10f), f, splat(0x1.3cea88p-7f));
    m = fma(m, f, splat(0x1.c6b752p-5f));
    m = fma(m, f, splat(0x1.ebf9bcp-3f));
    m = fma(m, f, splat(0x1.62e42ap-1f));
    m = fma(m, f, splat(1.0f));
  } else {
    m = fma(splat(0x1.c3f760p-5f), f, splat(0x1.f0de1ap-3f));
    m = fma(m, f, splat(0x1.62f31ap-1f));
    m = fma(m, f, splat(0x1.fff692p-1f));
  }
  return times_power(m, n);
}

}  // namespace
}  // namespace lowbit
