// Tiles of products on tensor cores: their shape, how operands lie in shared memory, and the loop over K that streams them in.
//
// K advances in slices of 64. A slice of a panel is lines (formats/panel.h) as they lie in memory, 128 bytes for each bit of a code, and what
// belongs to them (spans.h). 16 bytes of a line are 4 adjacent outputs of a few k-groups: a thread loads them at once and has the b word of 4 products, so column
// x of product j stands for output 4x + j of the warp's 32, and the 8 results a thread has of a row are adjacent outputs. Activations are plain
// rows, 64 elements a slice. The swizzles keep the 8 threads that access shared memory together on different banks.
#pragma once
#include "cuda/device.h"

namespace lowbit::cuda {

constexpr int kSlice = 64;        // elements of K
constexpr int kWarpColumns = 32;  // outputs of a warp: 2 panels
constexpr int kWarpPanels = 2;

// kTilesM tiles of 16 rows for each of kWarpsM warps; kWarpsK warps share K, a slice each in turn.
template <int kTilesM_, int kWarpsM, int kWarpsN, int kWarpsK_, int kStages_>
struct Shape {
  static constexpr int kTilesM = kTilesM_, kWarpsK = kWarpsK_, kStages = kStages_;
  static constexpr int kRows = 16 * kTilesM * kWarpsM, kColumns = kWarpColumns * kWarpsN, kPanels = kColumns / 16;
  static constexpr int kWarps = kWarpsM * kWarpsN * kWarpsK, kThreads = 32 * kWarps;
  static constexpr int kStashStride = kColumns + 4;  // rows of results start 4 banks apart
  static constexpr int kStashBytes = kRows * kStashStride * 4;
  LOWBIT_DEVICE static int warp_row() { return thread_index() / 32 % kWarpsM * 16 * kTilesM; }
  LOWBIT_DEVICE static int warp_column() { return thread_index() / 32 / kWarpsM % kWarpsN * kWarpColumns; }
  LOWBIT_DEVICE static int warp_slice() { return thread_index() / 32 / (kWarpsM * kWarpsN); }
};

// Position of 16-byte chunk `chunk` in a slice of a panel.
LOWBIT_DEVICE int swizzled(int chunk) { return chunk ^ (chunk >> 3 & 3) * 2; }

// A weight: its first panel, bytes of a panel, panels.
struct Panels {
  const int8_t* first;
  int64_t stride, count;
};

// The part of a matrix that a block streams in: rows or panels `stride` bytes apart. Offsets inside a tile are 32 bits, to save registers.
struct TileSource {
  const char* first;
  uint32_t stride;
  int count, slices;
};
constexpr int64_t kMostTiledK = 1 << 22;  // 16 panels of this many codes are 2^30 bytes

LOWBIT_DEVICE TileSource tile_source(const void* first, int64_t stride, int64_t begin, int64_t count, int most, int64_t slices) {
  return {(const char*)first + begin * stride, (uint32_t)stride, (int)(count - begin < most ? count - begin : most), (int)slices};
}

// Streams all slices through kStages stages: fetch(stage, slice) starts copies, multiply(stage) uses the slice of the own warp.
template <class S, class Fetch, class Multiply>
LOWBIT_DEVICE void stream_slices(char* memory, int stage_bytes, int slices, Fetch fetch, Multiply multiply) {
  const int rounds = (slices + S::kWarpsK - 1) / S::kWarpsK;
  for (int s = 0; s < S::kStages - 1; ++s) {
    if (s < rounds) fetch(memory + s * stage_bytes, s * S::kWarpsK);
    copy_commit();
  }
  int now = 0, next = S::kStages - 1;
  for (int round = 0; round < rounds; ++round) {
    copy_wait<S::kStages - 2>();
    barrier();  // this round's slices are there for all; the last round's stage is free
    if (round + S::kStages - 1 < rounds) fetch(memory + next * stage_bytes, (round + S::kStages - 1) * S::kWarpsK);
    copy_commit();
    multiply(memory + now * stage_bytes);
    now = now + 1 == S::kStages ? 0 : now + 1;
    next = next + 1 == S::kStages ? 0 : next + 1;
  }
  copy_wait<0>();
  barrier();
}

template <class T>
struct alignas(16) Four {
  T of[4];
};

// Adds up what the warps that share K have, in a fixed order, into rows of kStashStride results.
template <class S, class T>
LOWBIT_DEVICE void stash(T* to, const T (*c)[4][4]) {
  const int g = thread_index() % 32 / 4, t = thread_index() % 4;
  for (int turn = 0; turn < S::kWarpsK; ++turn) {
    if (S::warp_slice() == turn) {
#pragma unroll
      for (int m = 0; m < S::kTilesM; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          T* row = to + (S::warp_row() + 16 * m + 8 * half + g) * S::kStashStride + S::warp_column() + 8 * t;
#pragma unroll
          for (int column = 0; column < 2; ++column) {
            Four<T> sum = {};
            if (turn) sum = load_wide<Four<T>>(row + 4 * column);
#pragma unroll
            for (int j = 0; j < 4; ++j) sum.of[j] += c[m][j][2 * half + column];
            store_wide(row + 4 * column, sum);
          }
        }
      }
    }
    barrier();
  }
}

// Tiles of a matrix in an order that lets blocks which run together share rows and columns.
struct TileIndex {
  int64_t row, column;
};
LOWBIT_DEVICE TileIndex tile_of(int64_t index, int64_t row_tiles, int64_t column_tiles) {
  constexpr int64_t kBand = 8;
  const int64_t band = index / (kBand * column_tiles), first = band * kBand, inside = index % (kBand * column_tiles);
  const int64_t height = row_tiles - first < kBand ? row_tiles - first : kBand;
  return {first + inside % height, inside / height};
}

}  // namespace lowbit::cuda
