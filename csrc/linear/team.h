// Threads that go through the same phases of work together, in one parallel region.
#pragma once
#include <sched.h>
#include <string.h>

#include "linear/parallel.h"

namespace lowbit {

// Counts of one phase, on a cache line of its own.
struct alignas(64) PhaseCounts {
  int64_t taken, done;
};

// One thread's way through the phases. Parts go to whoever comes first, and nobody goes on before all of them are done: parts that others
// have taken are running, so nobody waits for a thread that torch has not started, and one thread alone can do everything.
class Member {
 public:
  explicit Member(PhaseCounts* counts) : next_(counts) {}

  template <class F>
  void each(int64_t parts, const F& work) {
    PhaseCounts& phase = *next_++;
    for (int64_t part; (part = __atomic_fetch_add(&phase.taken, 1, __ATOMIC_RELAXED)) < parts;) {
      const Done done = {phase};
      work(part);
    }
    for (int spins = 0; __atomic_load_n(&phase.done, __ATOMIC_ACQUIRE) < parts; ++spins) {
      if (spins < kSpins) relax();
      else sched_yield();  // more threads than cores
    }
  }

 private:
  static constexpr int kSpins = 4096;
  struct Done {  // also where the work throws, which the region hands on
    PhaseCounts& phase;
    ~Done() { __atomic_fetch_add(&phase.done, 1, __ATOMIC_RELEASE); }
  };
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }
  PhaseCounts* next_;
};

// Calls way(member) on `tasks` threads, each of which goes through `phases` phases. `counts` is memory for as many.
template <class F>
void together(int64_t tasks, int64_t phases, PhaseCounts* counts, const F& way) {
  memset((void*)counts, 0, (size_t)phases * sizeof(PhaseCounts));
  parallel(tasks, [&](int64_t) {
    Member member(counts);
    way(member);
  });
}

}  // namespace lowbit
