// Products whose weights are no panels of S8: parts of the panels become those, and meet the kernels of linear_s8s8.
#pragma once
#include "linear/job.h"
#include "linear/scratch.h"

namespace lowbit {

// Panels begin..end as S8, at most `most` and as many as stay in L2 at a time: expand(p, to) makes panel p, work(part, from, stop) takes those
// that are there.
template <class Expand, class Work>
void expanded(const Job& job, int64_t begin, int64_t end, int64_t most, const Expand& expand, const Work& work) {
  const int64_t bytes = S8::bytes(job.kp), fit = qgemm_chunk(job.kp, 0, end - begin), chunk = most < fit ? most : fit;
  int8_t* memory = scratch<int8_t>(kExpandedSlot, (chunk < end - begin ? chunk : end - begin) * bytes);
  Job part = job;
  part.op.w = memory;
  for (part.base = begin; part.base < end; part.base += chunk) {
    const int64_t stop = part.base + chunk < end ? part.base + chunk : end;
    for (int64_t p = part.base; p < stop; ++p) expand(p, memory + (p - part.base) * bytes);
    work(part, part.base, stop);
  }
}

// All rows against all panels.
template <class Expand>
void multiply_expanded(const Job& job, int64_t tasks, int64_t most, const Expand& expand) {
  split_panels(job, tasks, [&](const Prepared& block, ExactTiles tiles, int64_t first, int64_t begin, int64_t end) {
    expanded(job, begin, end, most, expand, [&](const Job& part, int64_t from, int64_t stop) { multiply(part, block, tiles, first, from, stop, {}); });
  });
}

}  // namespace lowbit
