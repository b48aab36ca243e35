// The threads of one block as fibers, and what they wait for. Nothing here knows what the kernels compute.
#pragma once
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

namespace lowbit::cuda::emulator {

constexpr int kMostThreads = 1024, kMostCopies = 512, kMostRanges = 64;
constexpr size_t kStack = 128 << 10, kShared = 99 << 10, kGuard = 4 << 10;  // shared: what every GPU from sm_80 on has
constexpr unsigned char kPoison = 0xFB;  // a NaN with much below it in every float format, and a large integer

struct Copy {
  void* to;
  const void* from;
  bool valid;
  int64_t group;
};

struct Fiber {
  ucontext_t entry;
  jmp_buf place;
  bool started, done;
  const int64_t* waits_for;  // a generation, until it differs from `seen`; or null
  int64_t seen;
  Copy copies[kMostCopies];
  int pending;
  int64_t group;
};

// Threads that must all come before any goes on.
struct Meeting {
  int arrived;
  int64_t generation;
  const char* kind;
  void* slots[32];
};

struct State {
  int threads, current, finished;
  int64_t block;
  char* shared;
  int shared_bytes;
  Fiber* fibers;
  char* stacks;
  Meeting warps[kMostThreads / 32], whole;
  bool any, voted;
  jmp_buf scheduler;
  void (*body)(const void*);
  const void* context;
  uint64_t seed;
  char error[256];
  struct {
    const char* begin;
    int64_t bytes;
  } ranges[kMostRanges];
  int range_count;
};
inline State state = {};

inline int self() { return state.current; }
inline Fiber& fiber() { return state.fibers[state.current]; }

[[noreturn]] inline void fail(const char* what, const char* detail = "") {
  if (!state.error[0]) {
    snprintf(state.error, sizeof(state.error), "block %lld, thread %d: %s %s", (long long)state.block, state.current, what, detail);
  }
  _longjmp(state.scheduler, 1);
}

inline void check(const void* address, size_t bytes, size_t alignment, const char* what) {
  if ((uintptr_t)address % alignment) fail("unaligned", what);
  const char* p = (const char*)address;
  if (p >= state.shared && p + bytes <= state.shared + state.shared_bytes) return;
  for (int i = 0; i < state.range_count; ++i) {
    if (p >= state.ranges[i].begin && p + bytes <= state.ranges[i].begin + state.ranges[i].bytes) return;
  }
  const char* stack = state.stacks + (size_t)state.current * kStack;
  if (p >= stack && p + bytes <= stack + kStack) return;  // a thread's own variables
  fail("out of bounds:", what);
}

inline void wait(Meeting& meeting) {
  Fiber& me = fiber();
  me.waits_for = &meeting.generation;
  me.seen = meeting.generation;
  if (_setjmp(me.place) == 0) _longjmp(state.scheduler, 1);
}

inline void arrive(Meeting& meeting, int members, const char* kind, void* mine, int slot, void (*perform)(void**)) {
  if (meeting.arrived && strcmp(meeting.kind, kind)) fail(kind, "where other threads do something else");
  meeting.kind = kind;
  if (mine) meeting.slots[slot] = mine;
  if (++meeting.arrived < members) return wait(meeting);
  if (perform) perform(meeting.slots);
  meeting.arrived = 0;
  ++meeting.generation;
}

inline void collective(const char* kind, void* mine, void (*perform)(void**)) {
  arrive(state.warps[state.current / 32], 32, kind, mine, state.current % 32, perform);
}
inline void barrier() { arrive(state.whole, state.threads, "barrier", nullptr, 0, nullptr); }
inline bool barrier_any(bool own) {
  state.any = state.any || own;
  arrive(state.whole, state.threads, "barrier with a vote", nullptr, 0, [](void**) {
    state.voted = state.any;  // until the next vote, to which all threads must come
    state.any = false;
  });
  return state.voted;
}

inline void start_copy(void* to, const void* from, bool valid) {
  Fiber& me = fiber();
  if (me.pending == kMostCopies) fail("too many copies");
  memset(to, kPoison, 16);
  me.copies[me.pending++] = {to, from, valid, me.group};
}
inline void commit_copies() { ++fiber().group; }
inline void wait_copies(int left) {
  Fiber& me = fiber();
  int kept = 0;
  for (int i = 0; i < me.pending; ++i) {
    const Copy& copy = me.copies[i];
    if (copy.group >= me.group - left) me.copies[kept++] = copy;
    else if (copy.valid) memcpy(copy.to, copy.from, 16);
    else memset(copy.to, 0, 16);
  }
  me.pending = kept;
}

inline void enter() {
  state.body(state.context);
  Fiber& me = fiber();
  if (me.pending) fail("copies that nothing waited for");
  me.done = true;
  ++state.finished;
  _longjmp(state.scheduler, 1);
}

inline void resume(int thread) {
  Fiber& next = state.fibers[thread];
  state.current = thread;
  next.waits_for = nullptr;
  if (_setjmp(state.scheduler)) return;
  if (next.started) _longjmp(next.place, 1);
  next.started = true;
  setcontext(&next.entry);
}

inline bool run_round() {
  bool progress = false;
  state.seed = state.seed * 6364136223846793005u + 1442695040888963407u;
  const int warps = (state.threads + 31) / 32, first = (int)((state.seed >> 33) % (uint64_t)warps), step = (state.seed >> 62) % 2 ? 1 : warps - 1;
  for (int i = 0; i < warps && !state.error[0]; ++i) {
    const int warp = (first + i * step) % warps;
    for (int thread = warp * 32; thread < warp * 32 + 32 && thread < state.threads && !state.error[0]; ++thread) {
      const Fiber& fiber = state.fibers[thread];
      if (fiber.done || (fiber.waits_for && *fiber.waits_for == fiber.seen)) continue;
      resume(thread);
      progress = true;
    }
  }
  return progress;
}

inline void run_block() {
  memset(state.shared, kPoison, (size_t)state.shared_bytes + kGuard);
  memset(state.warps, 0, sizeof(state.warps));
  memset(&state.whole, 0, sizeof(state.whole));
  state.finished = 0;
  state.any = false;
  for (int i = 0; i < state.threads; ++i) {
    Fiber& fiber = state.fibers[i];
    fiber.started = fiber.done = false;
    fiber.waits_for = nullptr;
    fiber.pending = 0;
    fiber.group = 0;
    getcontext(&fiber.entry);
    fiber.entry.uc_stack = {state.stacks + (size_t)i * kStack, 0, kStack};
    fiber.entry.uc_link = nullptr;
    makecontext(&fiber.entry, enter, 0);
  }
  while (state.finished < state.threads && !state.error[0]) {
    if (run_round() || state.error[0]) continue;
    snprintf(state.error, sizeof(state.error), "block %lld: some threads wait for ever", (long long)state.block);
  }
  for (size_t i = 0; i < kGuard && !state.error[0]; ++i) {
    if ((unsigned char)state.shared[state.shared_bytes + i] != kPoison) snprintf(state.error, sizeof(state.error), "a write past shared memory");
  }
}

inline void run(int64_t blocks, int threads, int shared, void (*body)(const void*), const void* context) {
  if (!state.fibers) {
    state.fibers = (Fiber*)calloc(kMostThreads, sizeof(Fiber));
    state.stacks = (char*)aligned_alloc(4096, kStack * kMostThreads);
    state.shared = (char*)aligned_alloc(128, kShared + kGuard);
  }
  const bool possible = shared <= (int)kShared && threads <= kMostThreads && threads % 32 == 0;
  if (!state.error[0] && !possible) snprintf(state.error, sizeof(state.error), "a launch no GPU takes");
  state.threads = threads;
  state.shared_bytes = shared;
  state.body = body;
  state.context = context;
  for (state.block = 0; state.block < blocks && !state.error[0]; ++state.block) run_block();
}

}  // namespace lowbit::cuda::emulator
