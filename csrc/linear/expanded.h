// Products whose weights are no panels of S8: parts of the panels become those, and meet the kernels of linear_s8s8.
#pragma once
#include "linear/job.h"
#include "linear/parallel.h"
#include "linear/scratch.h"

namespace lowbit {

// Panels begin..end as S8, at most `chunk` at a time: expand(p, to) makes panel p, work(part, from, stop) takes those that are there.
template <class Expand, class Work>
void expanded(const Job& job, int64_t begin, int64_t end, int64_t chunk, const Expand& expand, const Work& work) {
  const int64_t bytes = S8::bytes(job.kp);
  int8_t* memory = scratch<int8_t>(kExpandedSlot, (chunk < end - begin ? chunk : end - begin) * bytes);
  Job part = job;
  part.op.w = memory;
  for (part.base = begin; part.base < end; part.base += chunk) {
    const int64_t stop = part.base + chunk < end ? part.base + chunk : end;
    for (int64_t p = part.base; p < stop; ++p) expand(p, memory + (p - part.base) * bytes);
    work(part, part.base, stop);
  }
}

// All rows against all panels, of which at most `chunk`, and no more than stay in L2, are S8 at a time.
template <class Expand>
void multiply_expanded(const Job& job, int64_t tasks, int64_t chunk, const Expand& expand) {
  const int64_t m = job.op.x.rows, step = block_rows(job.kp);
  for (int64_t first = 0; first < m; first += step) {
    Prepared block = reserve(m - first < step ? m - first : step, job.kp, job.layout, job.treatment, job.columns);
    parallel_parts(tasks == 1 ? 1 : tasks_for(block.m * job.kp * 2), block.m, kPanel, parts_for(block.m), [&](int64_t begin, int64_t end) {
      prepare_rows(block, job.op.x, first, begin, end, job.treatment, job.columns);
    });
    join_exact(block, job.treatment, job.columns);
    parallel_parts(tasks, job.panels, job.unit(tasks), parts_for(block.m), [&](int64_t begin, int64_t end) {
      const int64_t most = qgemm_chunk(job.kp, 0, end - begin);
      expanded(job, begin, end, chunk < most ? chunk : most, expand,
               [&](const Job& part, int64_t from, int64_t stop) { multiply(part, block, {}, first, from, stop, {}); });
    });
  }
}

}  // namespace lowbit
