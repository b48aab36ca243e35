// Threads and scratch memory, supplied by csrc/bind so that nothing else sees torch.
#pragma once
#include <stdint.h>

namespace lowbit {

int64_t thread_count();
// Calls task(0) .. task(tasks - 1) on torch's threads.
void run_tasks(int64_t tasks, void (*task)(int64_t index, void* context), void* context);

template <class F>
void parallel(int64_t tasks, const F& f) {
  if (tasks <= 1) {
    if (tasks == 1) f(0);
    return;
  }
  run_tasks(tasks, [](int64_t index, void* context) { (*(const F*)context)(index); }, (void*)&f);
}

// The part of `size` that task `index` of `tasks` does, in whole units of `unit`.
struct Range {
  int64_t begin, end;
};
inline Range share(int64_t size, int64_t tasks, int64_t index, int64_t unit) {
  const int64_t units = (size + unit - 1) / unit;
  const int64_t begin = units * index / tasks * unit, end = units * (index + 1) / tasks * unit;
  return {begin < size ? begin : size, end < size ? end : size};
}

// Calls work(begin, end) for up to `each` parts of `size` a task, whole units. Threads take parts as they finish: where a
// neighbour on the machine slows one core down (tile loads to a quarter, measured), equal shares would wait for it.
template <class F>
void parallel_parts(int64_t tasks, int64_t size, int64_t unit, int64_t each, const F& work) {
  const int64_t parts = tasks == 1 ? 1 : tasks * each;
  int64_t next = 0;
  parallel(tasks, [&](int64_t) {
    for (int64_t part; (part = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < parts;) {
      const Range range = share(size, parts, part, unit);
      if (range.begin < range.end) work(range.begin, range.end);
    }
  });
}
// Parts a task: a few rows wait for memory, which is equally slow for all.
inline int64_t parts_for(int64_t rows) { return rows < 5 ? 1 : 8; }

// Tasks worth starting for `work` bytes read (a parallel region costs about as much as reading 64 KB from cache).
inline int64_t tasks_for(int64_t work) {
  const int64_t wanted = work >> 17, most = thread_count();
  return wanted < 1 ? 1 : wanted < most ? wanted : most;
}

}  // namespace lowbit
