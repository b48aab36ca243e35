// Quantizing to what training keeps, and panels of it.
#include "linear/kept.h"

#include <string.h>

#include "common/noise.h"
#include "linear/parallel.h"
#include "linear/prepare.h"
#include "linear/scratch.h"

namespace lowbit {
namespace {

int8_t* panels_of(int64_t count, int64_t kp) { return scratch<int8_t>(kWeightSlot, count * S8::bytes(kp)); }

float* scales_of(int8_t* panel, int64_t kp) { return (float*)S8::scales(panel, kp); }

// Two codes of 4 bits as bytes, whose sign fills the upper halves.
uint16_t both_of(uint8_t pair) {
  const uint16_t two = (uint16_t)((pair & 15) | (pair & 0xf0) << 4);
  return (uint16_t)(two | (two & 0x0808) * 0x1e);
}

// Calls work(begin, end) for parts of `panels`, four of them together.
template <class F>
void each_four(int64_t panels, int64_t kp, const F& work) {
  const int64_t tasks = tasks_for(panels * kp * 8);
  parallel_parts(tasks, panels, 4, parts_for(panels), work);
}

}  // namespace

void Kept::read(int64_t row, int64_t column, int64_t count, int64_t size, int8_t* to) const {
  const uint8_t* from = q + row * row_bytes();
  if (bits == 4) {
    from += column / 2;
    for (int64_t i = 0; i < count / 2; ++i) {
      const uint16_t two = both_of(from[i]);
      memcpy(to + 2 * i, &two, 2);
    }
    if (count % 2) to[count - 1] = (int8_t)both_of(from[count / 2]);
  } else {
    memcpy(to, from + column, (size_t)count);
  }
  memset(to + count, 0, (size_t)(size - count));
}

void Kept::write(int64_t row, const int8_t* codes) const {
  uint8_t* to = q + row * row_bytes();
  if (bits != 4) {
    memcpy(to, codes, (size_t)columns);
    return;
  }
  const int64_t pairs = columns / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    uint16_t two;
    memcpy(&two, codes + 2 * i, 2);
    to[i] = (uint8_t)((two & 15) | (two >> 4 & 0xf0));
  }
  if (columns % 2) to[pairs] = (uint8_t)(codes[columns - 1] & 15);
}

const float* rotation_signs(int64_t size) {
  float* signs = scratch<float>(kSignSlot, size);
  const uint32_t row = row_key(key_of(0), 0);
  for (int64_t i = 0; i < size; ++i) signs[i] = mixed(row + (uint32_t)(i % kBlock) * kGolden) & 1 ? -1.0f : 1.0f;
  return signs;
}

void quantize_kept(const Matrix& x, bool rotated, const Kept& to) {
  const RowKernels& kernels = row_kernels();
  const int64_t kp = round_up(x.columns, kBlock);
  Matrix signed_x = x;
  if (rotated) signed_x.prologue.times = {rotation_signs(kp), kF32};
  parallel_parts(tasks_for(x.rows * kp * 2), x.rows, 1, parts_for(x.rows), [&](int64_t begin, int64_t end) {
    float* v = scratch<float>(kRowSlot, kp);
    int8_t* codes = scratch<int8_t>(kCodesSlot, kp);
    for (int64_t i = begin; i < end; ++i) {
      uint32_t a = load_row(kernels, signed_x, i, kp, v);
      if (rotated) a = kernels.rotate(v, kp);
      to.scale[i] = encode(kernels, v, kp, a, to.largest(), 0, codes);
      to.write(i, codes);
    }
  });
}

const int8_t* pack_rows(const Kept& w) {
  const int64_t kp = S8::padded(w.columns), panels = round_up(w.rows, kPanel) / kPanel;
  int8_t* out = panels_of(panels, kp);
  each_four(panels, kp, [&](int64_t begin, int64_t end) {
    int8_t* codes = scratch<int8_t>(kCodesSlot, kPanel * kp);
    for (int64_t p = begin; p < end; ++p) {
      int8_t* panel = out + p * S8::bytes(kp);
      const int64_t left = w.rows - p * kPanel, there = left < kPanel ? left : kPanel;
      for (int64_t r = 0; r < kPanel; ++r) {
        if (r < there) w.read(p * kPanel + r, 0, w.columns, kp, codes + r * kp);
        else memset(codes + r * kp, 0, (size_t)kp);
        scales_of(panel, kp)[r] = r < there ? w.scale[p * kPanel + r] : 0;
      }
      row_kernels().panel_of_rows(codes, kp, kp, panel);
    }
  });
  return out;
}

const int8_t* pack_columns(const Kept& s) {
  const int64_t kp = S8::padded(s.rows), panels = round_up(s.columns, kPanel) / kPanel;
  int8_t* out = panels_of(panels, kp);
  each_four(panels, kp, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p += 4) {
      const int64_t column = p * kPanel, left = s.columns - column, there = left < kBlock ? left : kBlock;
      const bool direct = s.bits == 8 && there == kBlock;
      int8_t* codes = direct ? (int8_t*)s.q + column : scratch<int8_t>(kCodesSlot, s.rows * kBlock);
      for (int64_t i = 0; !direct && i < s.rows; ++i) s.read(i, column, there, kBlock, codes + i * kBlock);
      for (int64_t j = p; j < end && j < p + 4; ++j) {
        int8_t* panel = out + j * S8::bytes(kp);
        row_kernels().panel_of_columns(codes + (j - p) * kPanel, direct ? s.columns : kBlock, s.rows, kp, panel);
        for (int64_t r = 0; r < kPanel; ++r) scales_of(panel, kp)[r] = 1;
      }
    }
  });
  return out;
}

}  // namespace lowbit
