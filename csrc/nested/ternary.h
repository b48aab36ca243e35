// int8 rows times ternary weights with a scale for each row: dot products of code + 1, less the sum of the row's codes, which are those of
// linear_s8s8. Include one of the vectors of csrc/vec first, and nested/loop.h.
#pragma once
#include "nested/loop.h"

namespace lowbit {
namespace {

constexpr int kPlaces = 4;                           // of codes in a byte
constexpr int64_t kStep = Ternary::kCodes;           // of K in a line
constexpr uint32_t kPlace = 0x03030303u;             // the lowest of them in each byte of a word
constexpr int64_t kFetched = 4096;                    // bytes ahead that are on their way from memory: panels are one stream
constexpr int kMostRows = Vec::kWidth == 16 ? 4 : 2;  // whose sums stay in registers

// Codes are multiplied at their place, as 1, 4, 16 or 64 times what they are (128 at most): the sums of each place are divided by that at the end.
template <int M>
void ternary_tile(const NestedArgs* args, int64_t row, int64_t p) {
  const int64_t kp = args->kp, bytes = Ternary::bytes(kp);
  const int8_t* panel = args->w + p * bytes;
  const int8_t* q = args->q + row * args->ldq;
  for (int64_t v = 0; v < kVecs; ++v) {
    Words total[M][kPlaces];
    for (int i = 0; i < M; ++i) {
      for (int place = 0; place < kPlaces; ++place) total[i][place] = no_words();
    }
    for (int64_t k = 0; k < kp; k += kStep) {
      const int8_t* line = panel + Ternary::code_bytes(k) + v * Vec::kWidth * 4;
      __builtin_prefetch(line + kFetched, 0, 2);
      const Words words = load_words(line);
#pragma GCC unroll 4
      for (int place = 0; place < kPlaces; ++place) {
        const Words codes = masked(words, kPlace << 2 * place);
        for (int i = 0; i < M; ++i) total[i][place] = add_dots(total[i][place], codes, splat_word(q + i * args->ldq + k + 4 * place));
      }
    }
    const Vec scale = load(Ternary::scales(panel, kp) + v * Vec::kWidth);
    const int64_t n = p * kPanel + v * Vec::kWidth;
    for (int i = 0; i < M; ++i) {
      const int32_t less = -args->sums[row + i];
      Words sum = total[i][0] + splat_word(&less);
      for (int place = 1; place < kPlaces; ++place) sum = sum + signed_shift(total[i][place], 2 * place);
      Vec y = as_floats(sum) * splat(args->scale[row + i]) * scale;
      if (args->out.bias) y = y + load(args->out.bias + n);
      store_some((char*)args->out.data + (row + i) * args->out.stride * element_size(args->out.dtype), args->out.dtype, n, args->out.n - n, y);
    }
  }
}

void ternary_product(const NestedArgs* args) {
  for (int64_t p = 0; p < args->panels; ++p) {
    int64_t i = 0;
    for (; i + kMostRows <= args->m; i += kMostRows) ternary_tile<kMostRows>(args, i, p);
    for (; i < args->m; ++i) ternary_tile<1>(args, i, p);
  }
}

void expand_ternary(const int8_t* panel, int64_t kp, int64_t, int8_t* to) {
  static const uint8_t kOnes[kPanel] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  static const int8_t kLess[kPanel] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  const Line<IntegerLines> line(kOnes, kLess);
  for (int64_t v = 0; v < kVecs; ++v) {
    for (int64_t k = 0; k < kp; k += kStep) {
      const Words words = load_words(panel + Ternary::code_bytes(k) + v * Vec::kWidth * 4);
      for (int place = 0; place < kPlaces; ++place) {
        store_words(to + (k / 4 + place) * kLine + v * Vec::kWidth * 4, line.codes(masked(shifted(words, 2 * place), kPlace)));
      }
    }
  }
  memcpy((void*)S8::sums(to, kp), Ternary::sums(panel, kp), kPanel * 4);
  memcpy((void*)S8::scales(to, kp), Ternary::scales(panel, kp), kPanel * 4);
}

constexpr NestedKernels kTernaryKernels = {ternary_product, expand_ternary};

}  // namespace
}  // namespace lowbit
