// Threads that go through the same phases of work together, in one parallel region.
#pragma once
#include <sched.h>
#include <string.h>

#include "linear/parallel.h"

namespace lowbit {

// Counts of one phase and member, on a cache line of their own.
struct alignas(64) PhaseCounts {
  int64_t taken, done;  // done: of the first member alone, which counts for all
};

// One thread's way through the phases. A member takes its own parts first, in each phase the same share, then those that others have not taken
// yet; nobody goes on before all are done. Parts that others have taken are running, so nobody waits for a thread that torch has not started,
// and one thread alone can do everything.
class Member {
 public:
  Member(PhaseCounts* counts, int64_t index, int64_t count) : next_(counts), index_(index), count_(count) {}

  // Of `size` what this member takes first, in whole units.
  Range own(int64_t size, int64_t unit) const { return share(size, count_, index_, unit); }

  // `idle` is called with 0, 1, ... while others are working.
  template <class F, class Idle>
  void each(int64_t parts, const F& work, const Idle& idle) {
    PhaseCounts* phase = next_;
    next_ += count_;
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t whose = (index_ + i) % count_;
      const Range range = share(parts, count_, whose, 1);
      for (int64_t part; (part = range.begin + __atomic_fetch_add(&phase[whose].taken, 1, __ATOMIC_RELAXED)) < range.end;) {
        const Done done = {*phase};
        work(part);
      }
    }
    for (int64_t spins = 0; __atomic_load_n(&phase->done, __ATOMIC_ACQUIRE) < parts; ++spins) {
      if (spins < kSpins) relax();
      else sched_yield();  // more threads than cores
      idle(spins);
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
  int64_t index_, count_;
};

// Calls way(member) on `tasks` threads, each of which goes through `phases` phases. `counts` is memory for as many of each task.
template <class F>
void together(int64_t tasks, int64_t phases, PhaseCounts* counts, const F& way) {
  memset((void*)counts, 0, (size_t)(phases * tasks) * sizeof(PhaseCounts));
  parallel(tasks, [&](int64_t index) {
    Member member(counts, index, tasks);
    way(member);
  });
}

}  // namespace lowbit
