// A hash of memory, by which the caller notices that someone wrote there (runtime/fingerprint.py has the same in NumPy).
#include <stdint.h>
#include <string.h>

#include "common/export.h"

namespace {

constexpr int64_t kLine = 64, kWords = kLine / 8;
// Places lie in pages of their own that nothing else has touched lately: each costs a walk of the page table, and these overlap.
constexpr int64_t kAhead = 16;
constexpr uint64_t kStep = 0x9E3779B97F4A7C15, kMix = 0xD6E8FEB86659FD93;
constexpr uint64_t kFactors[kWords] = {0x2545F4914F6CDD1D, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xA24BAED4963EE407,
                                       0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3};

// Without the fold a change of the highest bits alone (the signs of 8 numbers) would be lost in the products; with an even shift, the
// signs of numbers of 32 bits would meet in one place.
uint64_t fold(uint64_t x) { return x ^ (x >> 29); }

uint64_t hash_line(const void* line) {
  uint64_t words[kWords], sum = 0;
  memcpy(words, line, kLine);
  for (int64_t i = 0; i < kWords; ++i) sum += fold(words[i]) * kFactors[i];
  return sum;
}

}  // namespace

struct lowbit_place {
  const uint8_t* data;
  int64_t bytes;
};

// The hash of `count` places, lines of 64 bytes one after the other; the last line of a place is filled up with zeros.
LOWBIT_EXPORT uint64_t lowbit_fingerprint(const lowbit_place* places, int64_t count) {
  uint64_t total = 0, step = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count) __builtin_prefetch(places[i + kAhead].data);
    const uint8_t* line = places[i].data;
    for (int64_t left = places[i].bytes; left > 0; left -= kLine, line += kLine) {
      uint8_t last[kLine] = {};
      if (left < kLine) memcpy(last, line, left);
      total += fold(hash_line(left < kLine ? last : line) + (step += kStep)) * kMix;
    }
  }
  return total;
}
