// What the packed formats have in common; each file of this folder says the rest of one. A panel has the codes of 16 output rows in lines of
// 64 bytes, a 32-bit word for each row; then, where kernels need them, int32[16] sums of the codes; then float[16] scales for each span of K.
// Functions are inlined whatever happens: none that was compiled for one ISA may serve another.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define LOWBIT_INLINE __host__ __device__ __forceinline__
#else
#define LOWBIT_INLINE __attribute__((always_inline)) inline
#endif

namespace lowbit {

constexpr int64_t kPanel = 16;  // output rows of a packed panel
constexpr int64_t kBlock = 64;  // K is padded to a multiple of this; also the size of a Hadamard block
constexpr int64_t kLine = 64;   // bytes: a word for each row of a panel

static LOWBIT_INLINE constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Rows of a packed weight behind its panels.
template <class Format>
constexpr int64_t kBehind = 0;

// The smallest group of a format that has groups.
template <class Format>
constexpr int64_t kLeastGroup = 32;

// kCodes: of adjacent k in a word, a multiple of 4. kGrouped: a span is `group` elements of K, else all of K, and `group` counts for nothing.
template <int kCodesOfWord, bool kHasGroups, bool kHasSums>
struct Panel {
  static constexpr int kCodes = kCodesOfWord;
  static constexpr bool kGrouped = kHasGroups, kSums = kHasSums;

  static LOWBIT_INLINE constexpr int64_t padded(int64_t k, int64_t group = 0) { return round_up(k, kGrouped && group > kBlock ? group : kBlock); }
  static LOWBIT_INLINE constexpr int64_t span(int64_t kp, int64_t group) { return kGrouped ? group : kp; }
  static LOWBIT_INLINE constexpr int64_t spans(int64_t k, int64_t group) { return kGrouped ? (k + group - 1) / group : 1; }
  // Bytes of the codes before k, which is a multiple of kCodes.
  static LOWBIT_INLINE constexpr int64_t code_bytes(int64_t k) { return k * (kLine / kCodes); }
  static LOWBIT_INLINE constexpr int64_t scales_at(int64_t kp) { return code_bytes(kp) + (kSums ? kPanel * 4 : 0); }
  static LOWBIT_INLINE constexpr int64_t bytes(int64_t kp, int64_t group = 0) { return scales_at(kp) + spans(kp, group) * kPanel * 4; }
  static LOWBIT_INLINE const int32_t* sums(const int8_t* panel, int64_t kp) { return (const int32_t*)(panel + code_bytes(kp)); }
  static LOWBIT_INLINE const float* scales(const int8_t* panel, int64_t kp) { return (const float*)(panel + scales_at(kp)); }
};

}  // namespace lowbit
