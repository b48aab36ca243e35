// What csrc/cuda/device.h and its emulator have in common.
#pragma once
#include <stdint.h>
#include <stdio.h>

namespace lowbit::cuda {

typedef void* Stream;

struct alignas(16) Words {
  uint32_t w[4];
};
struct alignas(8) HalfWords {
  uint32_t w[2];
};

constexpr int64_t kMostBlocks = 0x7fffffff;  // of a grid along x; no kernel has one along y or z

// Why the last launch of this thread was not tried.
struct Refusal {
  bool there;
  char text[96];
};
inline thread_local Refusal refusal = {};

inline bool refuse(int64_t blocks) {
  if (blocks <= kMostBlocks) return false;
  refusal.there = true;
  snprintf(refusal.text, sizeof(refusal.text), "it takes %lld blocks, and a GPU takes %lld at once", (long long)blocks, (long long)kMostBlocks);
  return true;
}
inline const char* take_refusal() {
  const bool there = refusal.there;
  refusal.there = false;
  return there ? refusal.text : nullptr;
}

}  // namespace lowbit::cuda
