// Kernels with mistakes that the emulator must notice, and products whose fragments are written as the PTX ISA lists them, element by element.
#include "cuda/device.h"

using namespace lowbit::cuda;

#define ENTRY extern "C" __attribute__((visibility("default")))

static void early_read(const char* from, uint32_t* out) {
  char* shared = shared_memory() + 16 * thread_index();
  copy_async(shared, from + 16 * thread_index(), true);
  copy_commit();
  out[thread_index()] = load_wide<Words>(shared).w[0];
  copy_wait<0>();
}
static void no_wait(const char* from, uint32_t*) {
  copy_async(shared_memory() + 16 * thread_index(), from + 16 * thread_index(), true);
  copy_commit();
}
static void no_barrier(const char*, uint32_t* out) {
  uint32_t* shared = (uint32_t*)shared_memory();
  shared[thread_index()] = (uint32_t)thread_index();
  out[thread_index()] = shared[(thread_index() + 32) % block_threads()];
}
static void half_a_warp(const char*, uint32_t* out) {
  if (thread_index() % 32 < 16) out[thread_index()] = shuffle_xor((uint32_t)thread_index(), 1);
}
static void two_things(const char*, uint32_t* out) {
  if (thread_index() % 32 < 16) out[thread_index()] = shuffle_xor((uint32_t)thread_index(), 1);
  else barrier();
}
static void unaligned(const char* from, uint32_t* out) { out[thread_index()] = load_wide<Words>(from + 8).w[0]; }
static void past_the_end(const char* from, uint32_t* out) { out[thread_index()] = load_wide<Words>(from + 16 * block_threads()).w[0]; }
static void past_shared(const char*, uint32_t*) { shared_memory()[16 * block_threads() + thread_index()] = 0; }

ENTRY const char* run_faulty(int which, int64_t seed, const char* from, uint32_t* out) {
  void (*const kernels[])(const char*, uint32_t*) = {early_read, no_wait, no_barrier, half_a_warp, two_things, unaligned, past_the_end, past_shared};
  constexpr int kThreads = 64;
  emulator::state.error[0] = 0;
  emulator::state.seed = (uint64_t)seed;
  emulator::state.ranges[0] = {from, 16 * kThreads};
  emulator::state.range_count = 1;
  launch(kernels[which], 1, kThreads, 16 * kThreads, nullptr, from, out);
  return last_error();
}

// a [16, 32], b [32, 8], c [16, 8]; the comments are the PTX ISA's, for mma.m16n8k32 with .s8.
static void product_s8(const int8_t* a, const int8_t* b, int32_t* c) {
  const int group = thread_index() >> 2, in_group = thread_index() % 4;
  uint32_t a_words[4] = {}, b_words[2] = {};
  for (int i = 0; i < 16; ++i) {
    const int row = (i < 4 || (i >= 8 && i < 12)) ? group : group + 8;       // groupID for ai where 0 <= i < 4 || 8 <= i < 12
    const int column = in_group * 4 + (i & 3) + (i < 8 ? 0 : 16);            // (threadID_in_group * 4) + (i & 0x3), + 16 for i >= 8
    a_words[i / 4] |= (uint32_t)(uint8_t)a[row * 32 + column] << i % 4 * 8;
  }
  for (int i = 0; i < 8; ++i) {
    const int row = in_group * 4 + (i & 3) + (i < 4 ? 0 : 16);               // (threadID_in_group * 4) + (i & 0x3), + 16 for i >= 4
    b_words[i / 4] |= (uint32_t)(uint8_t)b[row * 8 + group] << i % 4 * 8;    // column = groupID
  }
  int32_t own[4] = {};
  mma_s8(own, a_words, b_words[0], b_words[1]);
  for (int i = 0; i < 4; ++i) c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = own[i];
}

// a [16, 16], b [16, 8] in bfloat16: mma.m16n8k16.
static void product_bf16(const uint16_t* a, const uint16_t* b, float* c) {
  const int group = thread_index() >> 2, in_group = thread_index() % 4;
  uint32_t a_words[4] = {}, b_words[2] = {};
  for (int i = 0; i < 8; ++i) {
    const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;        // groupID for ai where 0 <= i < 2 || 4 <= i < 6
    const int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);             // (threadID_in_group * 2) + (i & 0x1), + 8 for i >= 4
    a_words[i / 2] |= (uint32_t)a[row * 16 + column] << i % 2 * 16;
  }
  for (int i = 0; i < 4; ++i) {
    const int row = in_group * 2 + (i & 1) + (i < 2 ? 0 : 8);                // (threadID_in_group * 2) + (i & 0x1), + 8 for i >= 2
    b_words[i / 2] |= (uint32_t)b[row * 8 + group] << i % 2 * 16;
  }
  float own[4] = {};
  mma_bf16(own, a_words, b_words[0], b_words[1]);
  for (int i = 0; i < 4; ++i) c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = own[i];
}

ENTRY void run_product_s8(const int8_t* a, const int8_t* b, int32_t* c) { launch(product_s8, 1, 32, 0, nullptr, a, b, c); }
ENTRY void run_product_bf16(const uint16_t* a, const uint16_t* b, float* c) { launch(product_bf16, 1, 32, 0, nullptr, a, b, c); }
