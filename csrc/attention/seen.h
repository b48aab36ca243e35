// Keys at the end that the mask hides from every query of a sequence are not read: a static cache is mostly empty, a short sequence padded.
#pragma once
#include <string.h>

#include "attention/attention.h"

namespace lowbit {
namespace {

// Eight bytes of a mask that hides what it is about: False, or -infinity.
uint64_t hiding(const AttentionMask& mask) {
  if (mask.kind == kBoolMask) return 0;
  return mask.dtype == kF32 ? 0xff800000ff800000u : mask.dtype == kBF16 ? 0xff80ff80ff80ff80u : 0xfc00fc00fc00fc00u;
}

bool is_hidden(const char* mask, int64_t bytes, uint64_t pattern) {
  uint64_t seen = 0;
  for (; bytes >= 8; bytes -= 8, mask += 8) {
    uint64_t word;
    memcpy(&word, mask, 8);
    seen |= word ^ pattern;
  }
  uint64_t rest = pattern;
  memcpy(&rest, mask, (size_t)bytes);
  return (seen | (rest ^ pattern)) == 0;
}

// How many keys there are up to the last one that any query of sequence b sees.
int64_t seen_keys(const Attention& call, int64_t b) {
  const AttentionMask& mask = call.mask;
  if (mask.kind == kNoMask || mask.column == 0) return call.keys;
  const int64_t size = mask_size(mask.kind, mask.dtype);
  const uint64_t pattern = hiding(mask);
  int64_t seen = 0;
  for (int64_t h = 0; h < (mask.head ? call.heads : 1); ++h) {
    for (int64_t l = mask.row ? call.rows : 1; l-- > 0;) {  // the last row often sees the most
      const char* row = (const char*)mask.data + (b * mask.batch + h * mask.head + l * mask.row) * size;
      int64_t end = call.keys;
      while (end - 64 >= seen && is_hidden(row + (end - 64) * size, 64 * size, pattern)) end -= 64;
      while (end - 1 >= seen && is_hidden(row + (end - 1) * size, size, pattern)) --end;
      seen = end;
      if (seen == call.keys) return seen;
    }
  }
  return seen;
}

}  // namespace
}  // namespace lowbit
