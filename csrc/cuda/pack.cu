// Codes and scales to panels: runtime/packing.py, docs/arithmetic.md ("Packed weights"). A thread makes one word of the result.
#include "cuda/floats.h"
#include "cuda/kernels.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256;

struct Job {
  const int8_t* q;     // [n, k]
  const float* scale;  // [n], or [n, groups]
  int64_t n, k, kp, group, words;  // words of a panel
  uint32_t* out;
};

LOWBIT_DEVICE int32_t code_at(const Job& job, int64_t row, int64_t k) { return row < job.n && k < job.k ? job.q[row * job.k + k] : 0; }

LOWBIT_DEVICE uint32_t word_of_s8(const Job& job, int64_t panel, int64_t word) {
  const int64_t row = panel * kPanel + word % kPanel, codes = job.kp / 4 * kPanel;
  if (word >= codes + kPanel) return float_bits(row < job.n ? job.scale[row] : 0.0f);
  uint32_t made = 0;
  if (word < codes) {
    for (int i = 0; i < 4; ++i) made |= (uint32_t)(code_at(job, row, word / kPanel * 4 + i) & 255) << 8 * i;
  } else {
    for (int64_t k = 0; k < job.k; ++k) made += (uint32_t)code_at(job, row, k);
  }
  return made;
}

LOWBIT_DEVICE uint32_t word_of_s4(const Job& job, int64_t panel, int64_t word) {
  const int64_t row = panel * kPanel + word % kPanel, codes = job.kp / 8 * kPanel, groups = (job.k + job.group - 1) / job.group;
  if (word >= codes) {
    const int64_t group = (word - codes) / kPanel;
    return float_bits(row < job.n && group < groups ? job.scale[row * groups + group] : 0.0f);
  }
  uint32_t made = 0;
  for (int i = 0; i < 4; ++i) {
    const int64_t k = word / kPanel * 8 + i;
    const uint32_t low = (uint32_t)(code_at(job, row, k) + 8), high = (uint32_t)(code_at(job, row, k + 4) + 8);
    made |= (low | high << 4) << 8 * i;
  }
  return made;
}

LOWBIT_KERNEL(kThreads, 4) pack_words(Job job) {
  const int64_t index = block_index() * kThreads + thread_index(), panel = index / job.words, word = index % job.words;
  if (panel * kPanel >= job.n) return;
  job.out[index] = job.group ? word_of_s4(job, panel, word) : word_of_s8(job, panel, word);
}

}  // namespace

void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out, Stream stream) {
  const int64_t kp = round_up(k, group > kBlock ? group : kBlock), words = panel_bytes(kp, group) / 4;
  const Job job = {q, scale, n, k, kp, group, words, (uint32_t*)out};
  launch(pack_words, (round_up(n, kPanel) / kPanel * words + kThreads - 1) / kThreads, kThreads, 0, stream, job);
}

}  // namespace lowbit::cuda
