// csrc/cuda/device.h on a CPU: blocks run one after the other, the threads of a block are fibers. What a GPU does for a warp or a block at
// once waits here until all of its threads have come; if some never do, or come for something else, the launch fails instead of hanging.
// Meant to be harsher than a GPU where that finds mistakes:
// - shared memory is poisoned before each block, and the bytes past its end are watched;
// - copies to shared memory poison their target when they start, and arrive only when they are waited for;
// - wide accesses must be aligned, and within shared memory or memory that was announced;
// - warps advance in another order in each round, by a seed.
// - tensor-core sums are truncated, as those of GPUs are found to be.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/convert.h"
#include "cuda/common.h"
#include "fibers.h"

#define LOWBIT_DEVICE inline
#define LOWBIT_KERNEL(threads, blocks) static void

namespace lowbit::cuda {

inline int thread_index() { return emulator::self(); }
inline int block_threads() { return emulator::state.threads; }
inline int64_t block_index() { return emulator::state.block; }
inline void barrier() { emulator::barrier(); }
inline bool barrier_any(bool own) { return emulator::barrier_any(own); }
inline char* shared_memory() { return emulator::state.shared; }

template <class T>
T load_wide(const void* from) {
  emulator::check(from, sizeof(T), alignof(T), "wide load");
  T value;
  memcpy(&value, from, sizeof(T));
  return value;
}
template <class T>
void store_wide(void* to, T value) {
  emulator::check(to, sizeof(T), alignof(T), "wide store");
  memcpy(to, &value, sizeof(T));
}

inline double bits_double(uint64_t u) {
  double x;
  memcpy(&x, &u, 8);
  return x;
}
inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t both = low | (uint64_t)high << 32;
  uint32_t made = 0;
  for (int i = 0; i < 4; ++i) made |= (uint32_t)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return made;
}
inline uint32_t subtract_f16(uint32_t a, uint32_t b) {
  const auto less = [&](int i) { return (uint32_t)float_to_f16(f16_to_float((uint16_t)(a >> i)) - f16_to_float((uint16_t)(b >> i))) << i; };
  return less(0) | less(16);
}
inline uint32_t subtract_bf16(uint32_t a, uint32_t b) {
  const auto less = [&](int i) { return (uint32_t)float_to_bf16(bf16_to_float((uint16_t)(a >> i)) - bf16_to_float((uint16_t)(b >> i))) << i; };
  return less(0) | less(16);
}
inline float biased_byte(uint32_t word, int i) { return bits_float(0x4b000000u | (word >> 8 * i & 255)); }
inline int32_t round_even(float x) { return x != x ? 0 : (int32_t)nearbyintf(x); }

template <class T>
T shuffle_any(T x, int mask) {
  struct Exchange {
    T in, out;
    int mask;
  } mine = {x, x, mask};
  emulator::collective("shuffle", &mine, [](void** all) {
    for (int lane = 0; lane < 32; ++lane) {
      Exchange& to = *(Exchange*)all[lane];
      to.out = ((Exchange*)all[lane ^ to.mask])->in;
    }
  });
  return mine.out;
}
inline uint32_t shuffle_xor(uint32_t x, int mask) { return shuffle_any(x, mask); }
inline float shuffle_xor(float x, int mask) { return shuffle_any(x, mask); }
inline double shuffle_xor(double x, int mask) { return shuffle_any(x, mask); }

inline void load_matrices(uint32_t r[4], const void* shared_row) {
  emulator::check(shared_row, 16, 16, "row of ldmatrix");
  struct Exchange {
    uint32_t* r;
    const char* row;
  } mine = {r, (const char*)shared_row};
  emulator::collective("ldmatrix", &mine, [](void** all) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) memcpy(((Exchange*)all[lane])->r + i, ((Exchange*)all[8 * i + lane / 4])->row + lane % 4 * 4, 4);
    }
  });
}

namespace emulator {

struct Product {
  void* c;
  uint32_t a[4], b[2];
};

// Row r of a (16 rows, 4-byte words 0..7) and column n of b, found where the fragments have them.
inline uint32_t word_of_a(void** all, int r, int word) {
  return ((Product*)all[r % 8 * 4 + word % 4])->a[r / 8 + word / 4 * 2];
}
inline uint32_t word_of_b(void** all, int n, int word) { return ((Product*)all[n * 4 + word % 4])->b[word / 4]; }
template <class T>
T& element_of_c(void** all, int r, int n) { return ((T*)((Product*)all[r % 8 * 4 + n / 2])->c)[r / 8 * 2 + n % 2]; }

inline void product_s8(void** all) {
  for (int r = 0; r < 16; ++r) {
    for (int n = 0; n < 8; ++n) {
      int32_t sum = 0;
      for (int word = 0; word < 8; ++word) {
        const uint32_t a = word_of_a(all, r, word), b = word_of_b(all, n, word);
        for (int i = 0; i < 32; i += 8) sum += (int8_t)(a >> i) * (int8_t)(b >> i);
      }
      element_of_c<int32_t>(all, r, n) += sum;
    }
  }
}

// All terms are cut to 24 bits below the largest, and so is their sum.
inline float truncated_sum(const double* terms, int count) {
  double largest = 0, plain = 0;
  for (int i = 0; i < count; ++i) {
    plain += terms[i];
    largest = fabs(terms[i]) > largest ? fabs(terms[i]) : largest;
  }
  if (!(fabs(plain) < INFINITY) || largest == 0) return (float)plain;
  const double ulp = ldexp(1.0, ilogb(largest) - 23);
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += trunc(terms[i] / ulp) * ulp;
  if (sum == 0) return 0;
  const double last = ldexp(1.0, ilogb(sum) - 23);
  return (float)(trunc(sum / last) * last);
}

template <float (*widen)(uint16_t)>
void product_16(void** all) {
  for (int r = 0; r < 16; ++r) {
    for (int n = 0; n < 8; ++n) {
      float& c = element_of_c<float>(all, r, n);
      double terms[17] = {c};
      for (int word = 0; word < 8; ++word) {
        const uint32_t a = word_of_a(all, r, word), b = word_of_b(all, n, word);
        terms[1 + 2 * word] = (double)widen((uint16_t)a) * widen((uint16_t)b);
        terms[2 + 2 * word] = (double)widen((uint16_t)(a >> 16)) * widen((uint16_t)(b >> 16));
      }
      c = truncated_sum(terms, 17);
    }
  }
}

inline void product(const char* kind, void (*perform)(void**), void* c, const uint32_t a[4], uint32_t b0, uint32_t b1) {
  Product mine = {c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  collective(kind, &mine, perform);
}

}  // namespace emulator

inline void mma_s8(int32_t c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) { emulator::product("mma s8", emulator::product_s8, c, a, b0, b1); }
inline void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  emulator::product("mma bf16", emulator::product_16<bf16_to_float>, c, a, b0, b1);
}
inline void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  emulator::product("mma f16", emulator::product_16<f16_to_float>, c, a, b0, b1);
}

inline void copy_async(void* shared, const void* from, bool valid) {
  emulator::check(shared, 16, 16, "target of cp.async");
  if (valid) emulator::check(from, 16, 16, "source of cp.async");
  emulator::start_copy(shared, from, valid);
}
inline void copy_commit() { emulator::commit_copies(); }
template <int left>
void copy_wait() { emulator::wait_copies(left); }

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared, Stream, const Arguments&... arguments) {
  if (refuse(blocks)) return;
  const auto body = [&] { kernel(arguments...); };
  emulator::run(blocks, threads, shared, [](const void* context) { (*(const decltype(body)*)context)(); }, &body);
}
inline void zero_memory(void* memory, int64_t bytes, Stream) { memset(memory, 0, (size_t)bytes); }
inline const char* last_error() { return emulator::state.error[0] ? emulator::state.error : take_refusal(); }

}  // namespace lowbit::cuda
