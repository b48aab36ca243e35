// The random numbers of training: a hash of where they are used (docs/arithmetic.md, "Noise").
#pragma once
#include <stdint.h>

namespace lowbit {

constexpr uint32_t kGolden = 0x9e3779b9u;  // from one row, and from one word of a row, to the next
constexpr uint32_t kMixers[2] = {0x7feb352du, 0x846ca68bu};

static inline uint32_t mixed(uint32_t h) {
  h = (h ^ h >> 16) * kMixers[0];
  h = (h ^ h >> 15) * kMixers[1];
  return h ^ h >> 16;
}

enum Reader : uint32_t { kGradient, kSaved, kSigns, kSampling };

static inline uint32_t key_of(int64_t seed) { return mixed(mixed((uint32_t)(seed & 0x7fffffff)) + (uint32_t)(seed >> 31)); }
// The stream of a reader in one product of a linear.
static inline uint32_t key_of(int64_t seed, uint32_t site, uint32_t product, Reader reader) {
  return mixed(mixed(mixed(key_of(seed) + site) + product) + reader);
}
static inline uint32_t row_key(uint32_t key, int64_t row) { return mixed(key + (uint32_t)row * kGolden); }

}  // namespace lowbit
