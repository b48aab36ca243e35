// Scaled-dot-product attention on plain pointers. attention.cpp cuts it into blocks of query rows and ranges of keys; flow.h is what
// every kernel does with one of them.
#pragma once
#include "common/types.h"

namespace lowbit {

// [batch, heads, rows, columns]: strides in elements, the last dimension is dense.
struct Heads {
  const void* data;
  int64_t batch, head, row;
};

struct AttentionMask {
  MaskKind kind;
  Dtype dtype;  // of kFloatMask
  const void* data;
  int64_t batch, head, row, column;  // 0 where broadcast; column is 0 or 1
};

struct Attention {
  Heads q, k, v;
  AttentionMask mask;
  void* out;  // [batch, rows, heads, ev]
  Dtype dtype;
  int64_t batch, heads, groups;  // query head h reads key head h / (heads / groups)
  int64_t rows, keys, e, ev;
  bool causal;  // query l sees keys 0 ... l
  float scale;
  Heads k_scale = {}, v_scale = {};  // float32 [batch, groups, keys], dense, of k and v in int8; no data: k and v are of dtype
};

void sdpa(const Attention& call);

constexpr int64_t kKeyBlock = 128;
constexpr int64_t kMostRows = 96;  // query rows of a block: each reads K and V once from L2

struct QueryRow {
  const void* q;
  const void* mask;  // at key 0, or null
  int64_t limit;     // keys 0 ... limit-1 are seen; ascending in a block
};

// K and V of one batch and key head; `packed` holds its key blocks, where the kernel packs.
struct KeyValues {
  const void *k, *v;
  const char* packed;
  const float *k_scale, *v_scale;
};

// A block of query rows against keys first ... last-1. The exponentials of a row carry 2^-exponent.
struct AttentionBlock {
  const Attention* call;
  const QueryRow* rows;
  int64_t m;
  KeyValues source;
  int64_t first, last;
  void* scratch;  // scratch_bytes() of it, 64-byte aligned
  float* total;   // results: [m][round_up(ev, 32)], not yet divided by
  float *sum, *exponent;
};

struct AttentionKernels {
  int64_t (*packed_bytes)(const Attention* call);  // of kKeyBlock keys; 0: K and V are read where they are
  void (*pack)(const Attention* call, const KeyValues* source, int64_t first, int64_t count, char* packed);
  int64_t (*scratch_bytes)(const Attention* call);
  void (*block)(const AttentionBlock* block);
  void (*scale)(float* x, int64_t n, float factor);                                   // in place; n a multiple of 32
  void (*divide)(const float* total, float sum, int64_t n, Dtype dtype, void* out);   // total / sum, rounded once
};

static inline int64_t value_columns(const Attention* call) { return round_up(call->ev, 32); }
static inline bool has_codes(const Attention& call) { return call.k_scale.data != nullptr; }
static inline const char* offset(const void* base, int64_t elements, Dtype dtype) { return (const char*)base + elements * element_size(dtype); }

}  // namespace lowbit
