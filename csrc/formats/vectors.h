// Code i of each word of a vector, as floats. Include one of the vectors of csrc/vec first.
#pragma once
#include "formats/formats.h"

namespace lowbit {
namespace {

// Of any format, word by word; quick ways follow.
template <class F>
inline Vec code(F, Words words, int i) {
  uint32_t word[Vec::kWidth];
  float codes[Vec::kWidth];
  memcpy(word, &words, sizeof(word));
  for (int64_t j = 0; j < Vec::kWidth; ++j) codes[j] = (float)F::code(word[j], i);
  return load(codes);
}

inline Vec code(S8, Words words, int i) { return signed_bits(words, 8 * i, 8); }
template <bool kHasGroups>
inline Vec code(Ternaries<kHasGroups>, Words words, int i) {
  return as_floats(masked(shifted(words, Ternaries<kHasGroups>::shift(i)), 3)) - splat(1.0f);
}
inline Vec code(S4, Words words, int i) { return four_bits(words, S4::shift(i), 8); }

}  // namespace
}  // namespace lowbit
