// Tile configuration: tiles 0-3 hold sums [half of A][half of B], 4 and 5 halves of A, 6 and 7 halves of B.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace lowbit {

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// Tiles of A and of sums have `rows` rows, all have 64 bytes a row. _tile_release() must follow.
static inline void configure_tiles(int64_t rows) {
  TileConfig config = {};
  config.palette = 1;
  for (int t = 0; t < 8; ++t) {
    config.bytes[t] = 64;
    config.rows[t] = t < 6 ? (uint8_t)rows : 16;
  }
  _tile_loadconfig(&config);
}

}  // namespace lowbit
