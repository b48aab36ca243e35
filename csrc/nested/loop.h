// int8 rows times weights on integer lines: dot products of 4-bit codes in each group, then its scale and minimum, all in int32, so the sums are those
// of linear_s8s8. Include one of the vectors of csrc/vec first.
#pragma once
#include "common/types.h"
#include "fgemm/unpack.h"

namespace lowbit {
namespace {

template <int M>
void nested_tile(const NestedArgs* args, int64_t row, int64_t p) {
  typedef U4Nested A;
  const int64_t kp = args->kp, group = args->group, groups = kp / group;
  const int8_t* panel = args->w + p * A::bytes(kp, group);
  const int8_t* next = next_panel(panel, A::bytes(kp, group), args->panels - p, args->fetch);
  const int8_t* q = args->q + row * args->ldq;
  for (int64_t v = 0; v < kVecs; ++v) {
    Words total[M];
    for (int i = 0; i < M; ++i) total[i] = no_words();
    for (int64_t g = 0; g < groups; ++g) {
      Words sums[M];
      for (int i = 0; i < M; ++i) sums[i] = no_words();
      for (int64_t k = g * group; k < (g + 1) * group; k += kHalf) {
        fetch_codes<A, kHalf>(next, k);
#pragma GCC unroll 8
        for (int quad = 0; quad < 8; ++quad) {
          const Words codes = quad_of<A>(panel, k, quad, v);
          for (int i = 0; i < M; ++i) sums[i] = add_dots(sums[i], codes, splat_word(q + i * args->ldq + k + 4 * quad));
        }
      }
      fetch_line<A>(next, kp, group, g);
      const int64_t at = g * kPanel + v * Vec::kWidth;
      const Words scale = signed_words((const int8_t*)A::scales(panel, kp) + at), minimum = signed_words(A::minima(panel, kp, group) + at);
      for (int i = 0; i < M; ++i) total[i] = total[i] + scale * sums[i] + minimum * splat_word(args->sums + (row + i) * groups + g);
    }
    const Vec outer = load(A::outer(panel, kp, group) + v * Vec::kWidth);
    const int64_t n = p * kPanel + v * Vec::kWidth;
    for (int i = 0; i < M; ++i) {
      Vec y = as_floats(total[i]) * splat(args->scale[row + i]) * outer;
      if (args->out.bias) y = y + load(args->out.bias + n);
      store_some((char*)args->out.data + (row + i) * args->out.stride * element_size(args->out.dtype), args->out.dtype, n, args->out.n - n, y);
    }
  }
}

void nested_product(const NestedArgs* args) {
  for (int64_t p = 0; p < args->panels; ++p) {
    int64_t i = 0;
    for (; i + 4 <= args->m; i += 4) nested_tile<4>(args, i, p);
    for (; i + 2 <= args->m; i += 2) nested_tile<2>(args, i, p);
    if (i < args->m) nested_tile<1>(args, i, p);
  }
}

void expand(const int8_t* panel, int64_t kp, int64_t group, int8_t* to) {
  for (int64_t v = 0; v < kVecs; ++v) {
    for (int64_t k = 0; k < kp; k += kHalf) {
      const Line<IntegerLines> line = line_at<U4Nested>(panel, kp, group, k, v);
#pragma GCC unroll 8
      for (int quad = 0; quad < 8; ++quad) {
        store_words(to + (k / 4 + quad) * kLine + v * Vec::kWidth * 4, line.codes(quad_of<U4Nested>(panel, k, quad, v)));
      }
    }
  }
  memcpy((void*)S8::sums(to, kp), panel + U4Nested::sums_at(kp, group), kPanel * 4);
  memcpy((void*)S8::scales(to, kp), U4Nested::outer(panel, kp, group), kPanel * 4);
}

constexpr NestedKernels kNestedKernels = {nested_product, expand};

}  // namespace
}  // namespace lowbit
