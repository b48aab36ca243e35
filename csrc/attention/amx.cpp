// Many query rows in bfloat16 on tiles; key blocks are packed as pairs.h says.
#include "vec/avx512.h"

#include "attention/flow.h"
#include "attention/pairs.h"
#include "attention/stream.h"
#include "common/amx.h"

namespace lowbit {
namespace {

// C += A B on 2 x 2 tiles (or 1 x 2), a step of 32 along the sum at a time, so that the exponentials of other rows can go between.
struct TileProduct {
  const char *a, *b;
  char* c;
  int64_t a_row, a_half, a_step;  // bytes: between rows, halves of 16 rows, steps
  int64_t b_half, b_step, b_next; // between halves of 16 columns, steps, pairs of halves
  int64_t c_row;
  int64_t steps, pairs;           // left: pairs of 16 columns
  bool two, load;                 // 32 rows; c counts
  int64_t at = 0;

  void step() {
    if (at == 0) begin();
    const char *left = a + at * a_step, *right = b + at * b_step;
    _tile_loadd(4, left, a_row);  // loads first: see multiply_tiles()
    _tile_loadd(6, right, 64);
    _tile_loadd(7, right + b_half, 64);
    if (two) _tile_loadd(5, left + a_half, a_row);
    if (two) Bfloats::multiply<2, 2>();
    else Bfloats::multiply<1, 2>();
    if (++at == steps) end();
  }
  void begin() {
    tiles_read_memory();
    if (load) {
      _tile_loadd(0, c, c_row);
      _tile_loadd(1, c + 64, c_row);
      if (two) _tile_loadd(2, c + 16 * c_row, c_row);
      if (two) _tile_loadd(3, c + 16 * c_row + 64, c_row);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  void end() {
    _tile_stored(0, c, c_row);
    _tile_stored(1, c + 64, c_row);
    if (two) _tile_stored(2, c + 16 * c_row, c_row);
    if (two) _tile_stored(3, c + 16 * c_row + 64, c_row);
    at = 0;
    --pairs;
    b += b_next;
    c += 128;
  }
  int64_t left() const { return pairs * steps - at; }
  void run(int64_t count) {
    for (; count > 0 && pairs > 0; --count) step();
  }
};

constexpr int64_t kAll = 1 << 30;

struct Tiles {
  static constexpr int64_t kRows = 32;
  static constexpr int kDegree = 3;
  static int64_t padded(int64_t width) { return round_up(width, 32); }

  const AttentionBlock* b;
  const int64_t depth, columns;
  uint16_t* q;        // queries in tiles [row/16][e/32][16][32]
  uint16_t *p, *p2;   // weights [32][kKeyBlock] of the item at hand, and of the other one in flight
  float *s, *s2;      // scores, the same

  Tiles(const AttentionBlock* block, char* scratch)
      : b(block), depth(depth_of(block->call)), columns(value_columns(block->call)), q((uint16_t*)scratch), p(q + kMostRows * depth),
        p2(p + kRows * kKeyBlock), s((float*)(p2 + kRows * kKeyBlock)), s2(s + kRows * kKeyBlock) {
    for (int64_t r = 0; r < round_up(b->m, 16); ++r) {
      for (int64_t i = 0; i < depth; i += 32) _mm512_store_si512(q + (r / 16 * depth + i) * 16 + r % 16 * 32, query_part(b, r, i));
    }
  }
  void swap() {
    uint16_t* weights = p;
    float* scores = s;
    p = p2;
    s = s2;
    p2 = weights;
    s2 = scores;
  }
  float* row(int64_t index) { return s + index * kKeyBlock; }
  void put(int64_t index, int64_t i, Vec x, Vec y) { _mm512_store_si512(p + index * kKeyBlock + i, (__m512i)_mm512_cvtne2ps_pbh(y.r, x.r)); }
  const char* keys(int64_t key) const { return b->source.packed + key / kKeyBlock * pairs_packed(b->call); }

  TileProduct scores(const Item& item, float* into) const {
    return {(const char*)(q + item.from * depth), keys(item.key), (char*)into, 64, depth * 32, 1024, depth * 32, 1024, depth * 64,
            kKeyBlock * 4, depth / 32, (item.width + 31) / 32, item.to - item.from > 16, false};
  }
  TileProduct values(const Item& item) const {
    return {(const char*)p, keys(item.key) + kKeyBlock * depth * 2, (char*)(b->total + item.from * columns), kKeyBlock * 2, kKeyBlock * 32, 64,
            1024, columns * 64, 2048, columns * 4, (item.width + 31) / 32, columns / 32, item.to - item.from > 16, true};
  }
};

// As attend(), in a pipeline: between the exponentials of an item go the weighted sums of the item before and the scores of the next.
void attend_tiles(const AttentionBlock* b) {
  RowState state(b);
  Tiles engine(b, (char*)b->scratch + RowState::kBytes);
  TileProduct before = {}, ahead = {};
  Item item = {b->first, 0, 0, 0};
  bool more = advance<Tiles>(b, item);
  if (more) engine.scores(item, engine.s).run(kAll);
  while (more) {
    Item next = item;
    next.from += Tiles::kRows;
    more = advance<Tiles>(b, next);
    if (more) ahead = engine.scores(next, engine.s2);
    const int64_t rows = item.to - item.from, share = (before.left() + ahead.left() + rows - 1) / rows;
    for (int64_t r = item.from; r < item.to; ++r) {
      state.weigh_row(engine, item, r, [&] { before.run(kAll); });
      if (before.pairs > 0) before.run(share);
      else ahead.run(share);
    }
    before.run(kAll);
    ahead.run(kAll);
    before = engine.values(item);
    engine.swap();
    item = next;
  }
  before.run(kAll);
  state.finish();
}

int64_t tiles_scratch(const Attention* call) {
  return RowState::kBytes + kMostRows * depth_of(call) * 2 + 2 * Tiles::kRows * kKeyBlock * (2 + 4);
}

template <void attend(const AttentionBlock*)>
void with_tiles(const AttentionBlock* b) {
  configure_tiles(16);
  attend(b);
  _tile_release();
}

}  // namespace

extern const AttentionKernels attention_stream_bf16_amx, attention_tiles_bf16_amx;
const AttentionKernels attention_stream_bf16_amx = {stream_packed, nullptr, stream_scratch, with_tiles<attend<Stream>>, scale_row, pairs_divide};
const AttentionKernels attention_tiles_bf16_amx = {pairs_packed, pairs_pack, tiles_scratch, with_tiles<attend_tiles>, scale_row, pairs_divide};

}  // namespace lowbit
