// c[R][C vectors] (+)= a[R][depth] * b[depth][C vectors] in registers. Include a vector first; the including file sets kMicroRows, kMicroVecs.
#pragma once
#include "common/types.h"

namespace lowbit {
namespace {

struct Product {
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  int64_t depth;
  bool add;
};

template <int R, int C>
inline void micro(const Product& p) {
  Vec sum[R][C];
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < C; ++j) sum[i][j] = p.add ? load(p.c + i * p.ldc + j * Vec::kWidth) : splat(0);
  }
  for (int64_t k = 0; k < p.depth; ++k) {
    Vec b[C];
    for (int j = 0; j < C; ++j) b[j] = load(p.b + k * p.ldb + j * Vec::kWidth);
    for (int i = 0; i < R; ++i) {
      const Vec a = splat(p.a[i * p.lda + k]);
      for (int j = 0; j < C; ++j) sum[i][j] = fma(a, b[j], sum[i][j]);
    }
  }
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < C; ++j) store(p.c + i * p.ldc + j * Vec::kWidth, sum[i][j]);
  }
}

// Any number of rows; n columns, a multiple of two vectors.
template <int R>
inline void row_group(Product p, int64_t n) {
  int64_t j = 0;
  const float *b = p.b;
  float* c = p.c;
  for (; j + kMicroVecs * Vec::kWidth <= n; j += kMicroVecs * Vec::kWidth) {
    p.b = b + j;
    p.c = c + j;
    micro<R, kMicroVecs>(p);
  }
  for (; j < n; j += 2 * Vec::kWidth) {
    p.b = b + j;
    p.c = c + j;
    micro<R, 2>(p);
  }
}

inline void multiply(Product p, int64_t rows, int64_t n) {
  for (; rows >= kMicroRows; rows -= kMicroRows) {
    row_group<kMicroRows>(p, n);
    p.a += kMicroRows * p.lda;
    p.c += kMicroRows * p.ldc;
  }
  switch (rows) {
    case 5: return row_group<5 < kMicroRows ? 5 : 1>(p, n);
    case 4: return row_group<4 < kMicroRows ? 4 : 1>(p, n);
    case 3: return row_group<3 < kMicroRows ? 3 : 1>(p, n);
    case 2: return row_group<2 < kMicroRows ? 2 : 1>(p, n);
    case 1: return row_group<1>(p, n);
  }
}

}  // namespace
}  // namespace lowbit
