#include "linear/prepare.h"

#include <string.h>

#include "common/convert.h"
#include "common/kernels.h"
#include "linear/parallel.h"
#include "linear/scratch.h"

namespace lowbit {

const RowKernels& row_kernels() { return chosen<rows>(0, kF32); }

uint32_t load_row(const RowKernels& kernels, const Matrix& x, int64_t row, int64_t kp, float* v) {
  const uint32_t a = kernels.load(row_of(x, row), x.dtype, x.columns, kp, v);
  if (is_plain(x)) return a;
  Prologue prologue = x.prologue;
  if (prologue.times.data) prologue.times.data = (const char*)prologue.times.data + row * x.times_stride * element_size(prologue.times.dtype);
  kernels.prologue(prologue, x.columns, kp, v);
  return kernels.maximum(v, kp);
}

Fit fit_of(uint32_t a, float largest) {
  const float maximum = bits_float(a);
  if (a >= kInfBits) return {0, bits_float(0x7fc00000u)};
  return maximum < kEmpty ? Fit{0, 0} : Fit{largest / maximum, maximum / largest};
}

void clear_codes(int64_t kp, uint8_t flip, int8_t* q, int64_t step) {
  for (int64_t b = 0; b < kp / kBlock; ++b) memset(q + b * step, flip, kBlock);
}

float encode(const RowKernels& kernels, const float* v, int64_t kp, uint32_t a, float largest, uint8_t flip, int8_t* q, int64_t step) {
  const Fit fit = fit_of(a, largest);
  if (fit.inverse == 0) clear_codes(kp, flip, q, step);
  else kernels.codes(v, kp, fit.inverse, flip, q, step);
  return fit.scale;
}

Columns find_columns(const Matrix& x, float threshold, int64_t kp) {
  const RowKernels& kernels = row_kernels();
  const int64_t tasks = x.rows < 8 ? 1 : tasks_for(x.rows * kp);
  uint8_t* hits = scratch<uint8_t>(kHitSlot, tasks * kp + kp * 4);
  int32_t* index = (int32_t*)(hits + tasks * kp);
  memset(hits, 0, (size_t)(tasks * kp));
  parallel(tasks, [&](int64_t task) {
    float* v = scratch<float>(kRowSlot, kp);
    const Range range = share(x.rows, tasks, task, 1);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const uint32_t a = load_row(kernels, x, i, kp, v);
      if (a < kInfBits && bits_float(a) >= threshold) kernels.reach(v, kp, threshold, hits + task * kp);
    }
  });
  int64_t count = 0;
  for (int64_t k = 0; k < x.columns; ++k) {
    uint8_t hit = 0;
    for (int64_t task = 0; task < tasks; ++task) hit |= hits[task * kp + k];
    if (hit) index[count++] = (int32_t)k;
  }
  return {index, count};
}

// Rows a multiple of 4096 bytes apart would share their cache sets.
static int64_t stride_of(int64_t kp, Layout layout) { return layout.tiled || kp % 512 ? kp : kp + kBlock; }

int64_t room_of(int64_t m, int64_t kp, Layout layout) { return round_up(m, 16) * stride_of(kp, layout) + m * 5; }

Prepared placed(int64_t m, int64_t kp, Layout layout, char* memory) {
  Prepared block = {};
  block.m = m;
  block.kp = kp;
  block.layout = layout;
  block.ldq = stride_of(kp, layout);
  block.q = (int8_t*)memory;
  block.scale = (float*)(memory + round_up(m, 16) * block.ldq);
  block.special = (uint8_t*)(block.scale + m);
  return block;
}

Prepared reserve(int64_t m, int64_t kp, Layout layout, Treatment treatment, const Columns& columns) {
  Prepared block = placed(m, kp, layout, scratch<char>(kCodesSlot, room_of(m, kp, layout)));
  const int64_t capacity = treatment == kRows ? kRowCapacity : treatment == kColumns ? columns.count : 0;
  if (capacity) {
    char* memory = scratch<char>(kExactSlot, m * capacity * 8 + m * 4 + kp * 4);
    block.value = (float*)memory;
    block.position = (int32_t*)(block.value + m * capacity);
    block.count = block.position + m * capacity;
    block.columns = block.count + m;
  }
  block.exact.capacity = capacity;
  return block;
}

// The elements above the lowest cut that leaves at most 16; they leave `v`.
static int32_t take_largest(const RowKernels& kernels, float* v, int64_t kp, float a, int32_t* position, float* value) {
  int32_t found[kRowCapacity], count = 0;
  float cut = a;
  for (int j = 1; j <= kRowCuts; ++j) {
    cut *= 0.5f;
    const int64_t above = kernels.above(v, kp, cut, kRowCapacity, found);
    if (above > kRowCapacity) break;
    count = (int32_t)above;
    memcpy(position, found, sizeof(found));
  }
  for (int32_t e = 0; e < count; ++e) {
    value[e] = v[position[e]];
    v[position[e]] = 0;
  }
  return count;
}

void prepare_rows(const Prepared& block, const Matrix& x, int64_t first, int64_t begin, int64_t end, Treatment treatment,
                  const Columns& columns) {
  const RowKernels& kernels = row_kernels();
  const int64_t kp = block.kp, capacity = block.exact.capacity;
  float* v = scratch<float>(kRowSlot, kp);
  for (int64_t i = begin; i < end; ++i) {
    uint32_t a = load_row(kernels, x, first + i, kp, v);
    if (treatment == kRotation) a = kernels.rotate(v, kp);
    const bool special = a >= kInfBits;
    if (capacity) {
      int32_t count = 0;
      if (!special && treatment == kRows) {
        count = take_largest(kernels, v, kp, bits_float(a), block.position + i * capacity, block.value + i * capacity);
      } else if (!special) {
        count = (int32_t)columns.count;
        float* value = block.value + i * capacity;
        for (int32_t e = 0; e < count; ++e) {
          value[e] = v[columns.index[e]];
          v[columns.index[e]] = 0;
        }
      }
      if (count) a = kernels.maximum(v, kp);
      block.count[i] = count;
    }
    block.special[i] = special;
    block.scale[i] = encode(kernels, v, kp, a, S8::kMost, block.layout.flip, block.row(i), block.step());
  }
}

void join_exact(Prepared& block, Treatment treatment, const Columns& columns) {
  ExactRows& exact = block.exact;
  exact.count = block.count;
  exact.value = block.value;
  if (treatment == kColumns) {
    exact.columns = columns.index;
    exact.used = columns.count;
    return;
  }
  exact.columns = block.columns;
  exact.position = block.position;
  exact.used = 0;
  if (exact.capacity == 0) return;
  int32_t* map = scratch<int32_t>(kTableSlot, block.kp);
  memset(map, 0xff, (size_t)block.kp * 4);
  for (int64_t i = 0; i < block.m; ++i) {
    int32_t* position = block.position + i * exact.capacity;
    for (int32_t e = 0; e < block.count[i]; ++e) {
      int32_t& slot = map[position[e]];
      if (slot < 0) {
        slot = (int32_t)exact.used;
        block.columns[exact.used++] = position[e];
      }
      position[e] = slot;
    }
  }
}

ExactTiles tile_exact(const Prepared& block, Dtype dtype) {
  const ExactRows& exact = block.exact;
  const int64_t parts = parts_of(dtype), depth = round_up(exact.used * parts, 32), size = round_up(block.m, 16) * depth;
  char* memory = scratch<char>(kTilesSlot, size * 2 + depth * 4);
  uint16_t* value = (uint16_t*)memory;
  int32_t* columns = (int32_t*)(memory + size * 2);
  memset(value, 0, (size_t)size * 2);
  for (int64_t c = 0; c < depth; ++c) columns[c] = c < exact.used * parts ? exact.columns[c / parts] : -1;
  for (int64_t i = 0; i < block.m; ++i) {
    uint16_t* row = value + i / 16 * 16 * depth + i % 16 * 32;
    for (int64_t e = 0; e < exact.count[i]; ++e) {
      float rest = exact.value[i * exact.capacity + e];
      const int64_t column = parts * (exact.position ? exact.position[i * exact.capacity + e] : e);
      for (int64_t c = column; c < column + parts; ++c) {
        const uint16_t part = (uint16_t)(float_bits(rest) >> 16);
        row[c / 32 * 16 * 32 + c % 32] = part;
        rest -= bf16_to_float(part);
      }
    }
  }
  return {value, columns, depth, nullptr};
}

void quantize_s8(const Matrix& x, int8_t* q, float* scale) {
  const RowKernels& kernels = row_kernels();
  const int64_t kp = round_up(x.columns, kBlock), tasks = tasks_for(x.rows * kp * 2);
  parallel(tasks, [&](int64_t task) {
    float* v = scratch<float>(kRowSlot, kp);
    int8_t* codes = scratch<int8_t>(kCodesSlot, kp);
    const Range range = share(x.rows, tasks, task, 1);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const uint32_t a = load_row(kernels, x, i, kp, v);
      scale[i] = encode(kernels, v, kp, a, S8::kMost, 0, codes);
      memcpy(q + i * x.columns, codes, (size_t)x.columns);
    }
  });
}

void quantize_s4(const Matrix& x, int64_t group, int8_t* q, float* scale) {
  const RowKernels& kernels = row_kernels();
  const int64_t groups = (x.columns + group - 1) / group, kp = round_up(group, kBlock), tasks = tasks_for(x.rows * x.columns * 2);
  parallel(tasks, [&](int64_t task) {
    float* v = scratch<float>(kRowSlot, kp);
    int8_t* codes = scratch<int8_t>(kCodesSlot, kp);
    const Range range = share(x.rows, tasks, task, 1);
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = g * group, left = x.columns - begin, size = group < left ? group : left;
        const char* from = (const char*)row_of(x, i) + begin * element_size(x.dtype);
        const uint32_t a = kernels.load(from, x.dtype, size, kp, v);
        scale[i * groups + g] = encode(kernels, v, kp, a, S4::kMost, 0, codes);
        memcpy(q + i * x.columns + begin, codes, (size_t)size);
      }
    }
  });
}

void rotate(const Matrix& x, float* out) {
  const RowKernels& kernels = row_kernels();
  const int64_t kp = round_up(x.columns, kBlock), tasks = tasks_for(x.rows * kp * 4);
  parallel(tasks, [&](int64_t task) {
    float* v = scratch<float>(kRowSlot, kp);
    const Range range = share(x.rows, tasks, task, 1);
    for (int64_t i = range.begin; i < range.end; ++i) {
      load_row(kernels, x, i, kp, v);
      kernels.rotate(v, kp);
      memcpy(out + i * kp, v, (size_t)kp * 4);
    }
  });
}

}  // namespace lowbit
