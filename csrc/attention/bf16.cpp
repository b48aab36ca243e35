// Many query rows in bfloat16 without tiles: products of pairs in vectors, rounded where amx.cpp rounds.
#include "vec/avx512.h"

#include "attention/flow.h"
#include "attention/pairs.h"

namespace lowbit {
namespace {

constexpr int kMicroRows = 6, kMicroVecs = 4;

// vdpbf16ps. As with integer dot products, g++ 12 copies sums with the intrinsic (qgemm/vnni.cpp).
inline __m512 add_dots(__m512 sum, __m512i x, __m512i w) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}

// C (+)= A B: rows of A hold pairs side by side; of B, vectors of 16 columns lie one pair after another, in groups of 16 pairs.
struct PairProduct {
  const char *a, *b;
  float* c;
  int64_t a_row, b_vector, b_group;  // bytes
  int64_t c_row, pairs;              // pairs: at least one
  bool add;
};

// Whole C of the vectors of C. A loop over pairs that is entered always, and sums that start with one load each: otherwise g++ 12 copies
// them through memory.
template <int R, int C>
inline void strips(PairProduct& p, int64_t& vectors) {
  const __mmask16 kept = p.add ? 0xffff : 0;
  for (; vectors >= C; vectors -= C) {
    __m512 sum[R][C];
    for (int i = 0; i < R; ++i) {
      for (int j = 0; j < C; ++j) sum[i][j] = _mm512_maskz_load_ps(kept, p.c + i * p.c_row + j * 16);
    }
    int64_t k = 0;
    do {
      const char* b = p.b + k / 16 * p.b_group + k % 16 * 64;
      __m512i w[C];
      for (int j = 0; j < C; ++j) w[j] = _mm512_load_si512(b + j * p.b_vector);
      for (int i = 0; i < R; ++i) {
        const __m512i x = _mm512_set1_epi32(*(const int*)(p.a + i * p.a_row + k * 4));
        for (int j = 0; j < C; ++j) sum[i][j] = add_dots(sum[i][j], x, w[j]);
      }
    } while (++k < p.pairs);
    for (int i = 0; i < R; ++i) {
      for (int j = 0; j < C; ++j) _mm512_store_ps(p.c + i * p.c_row + j * 16, sum[i][j]);
    }
    p.b += C * p.b_vector;
    p.c += C * 16;
  }
}

template <int R>
void row_group(PairProduct p, int64_t vectors) {
  strips<R, kMicroVecs>(p, vectors);
  strips<R, 1>(p, vectors);
}

void multiply(PairProduct p, int64_t rows, int64_t vectors) {
  for (; rows >= kMicroRows; rows -= kMicroRows) {
    row_group<kMicroRows>(p, vectors);
    p.a += kMicroRows * p.a_row;
    p.c += kMicroRows * p.c_row;
  }
  switch (rows) {
    case 5: return row_group<5>(p, vectors);
    case 4: return row_group<4>(p, vectors);
    case 3: return row_group<3>(p, vectors);
    case 2: return row_group<2>(p, vectors);
    case 1: return row_group<1>(p, vectors);
  }
}

inline int64_t pairs_of(int64_t n) { return n > 0 ? (n + 1) / 2 : 1; }  // of what is padded with zeros

struct Pairs {
  static constexpr int64_t kRows = 4 * kMicroRows;
  static constexpr int kDegree = 3;
  static int64_t padded(int64_t width) { return round_up(width, 32); }

  const AttentionBlock* b;
  const int64_t depth, columns;
  uint16_t *q, *p;  // queries [kMostRows][depth], weights [kRows][kKeyBlock]
  float* s;         // scores, like weights

  Pairs(const AttentionBlock* block, char* scratch)
      : b(block), depth(depth_of(block->call)), columns(value_columns(block->call)), q((uint16_t*)scratch), p(q + kMostRows * depth),
        s((float*)(p + kRows * kKeyBlock)) {
    for (int64_t r = 0; r < b->m; ++r) {
      for (int64_t i = 0; i < depth; i += 32) _mm512_store_si512(q + r * depth + i, query_part(b, r, i));
    }
  }
  float* row(int64_t index) { return s + index * kKeyBlock; }
  void put(int64_t index, int64_t i, Vec x, Vec y) { _mm512_store_si512(p + index * kKeyBlock + i, (__m512i)_mm512_cvtne2ps_pbh(y.r, x.r)); }
  const char* keys(int64_t key) const { return b->source.packed + key / kKeyBlock * pairs_packed(b->call); }

  void scores(const Item& item) {
    multiply({(const char*)(q + item.from * depth), keys(item.key), s, depth * 2, depth * 32, 1024, kKeyBlock, pairs_of(b->call->e), false},
             item.to - item.from, (item.width + 15) / 16);
  }
  void accumulate(const Item& item) {
    multiply({(const char*)p, keys(item.key) + kKeyBlock * depth * 2, b->total + item.from * columns, kKeyBlock * 2, 1024, columns * 64, columns,
              pairs_of(item.width), true}, item.to - item.from, columns / 16);
  }
};

int64_t pairs_scratch(const Attention* call) { return RowState::kBytes + kMostRows * depth_of(call) * 2 + Pairs::kRows * kKeyBlock * (2 + 4); }

}  // namespace

extern const AttentionKernels attention_panels_bf16;
const AttentionKernels attention_panels_bf16 = {pairs_packed, pairs_pack, pairs_scratch, attend<Pairs>, scale_row, pairs_divide};

}  // namespace lowbit
