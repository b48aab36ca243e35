// Types shared by every kernel. ISA files see only this and other plain headers: no std:: templates, whose weak
// symbols the linker could pick for baseline code.
#pragma once
#include <stdint.h>

#include "formats/formats.h"

namespace lowbit {

enum Dtype : int { kF32 = 0, kBF16 = 1, kF16 = 2, kS32 = 3 };  // kS32: of the results of products in integers that are sums as they are
enum MaskKind : int { kNoMask, kBoolMask, kFloatMask };  // of softmax and attention: bytes, nonzero where an element counts; floats to add

constexpr int64_t kMaxK = 133144;     // largest K whose int8 products cannot overflow int32
constexpr int64_t kMaxKNarrow = 132104;  // where codes go down to -128
constexpr int kRowCapacity = 16;      // exact elements of a row under the treatment `rows`
constexpr int kRowCuts = 6;
constexpr uint32_t kInfBits = 0x7f800000u;
constexpr float kEmpty = 0x1p-120f;   // below this 127/a overflows float32; the row counts as zero

constexpr float kFixedLeast = 0x1p-96f, kFixedMost = 0x1p96f;  // so that nothing overflows, or loses bits, before the row's outer scale
constexpr float kFixedLargest = 127 * 256 + 127;  // the largest number of two signed bytes

static inline int64_t element_size(Dtype dtype) { return dtype == kBF16 || dtype == kF16 ? 2 : 4; }
static inline int64_t mask_size(MaskKind kind, Dtype dtype) { return kind == kBoolMask ? 1 : element_size(dtype); }

// Where results go: `n` columns are left from the first column of the kernel's first panel on.
struct Output {
  void* data;           // first row, first column
  int64_t stride;       // elements between rows
  int64_t n;
  Dtype dtype;
  const float* bias;    // from the first column on, padded to whole panels; or null
};

// What a row goes through before it is quantized, in float32: function(v) * times + plus.
enum Function : int { kIdentity, kSilu, kGelu, kGeluTanh, kRelu, kRmsNorm, kLayerNorm };
struct Row {
  const void* data;  // null: none
  Dtype dtype;
};
struct Prologue {
  Function function;
  float eps;         // of a normalization
  Row times, plus;
};

// Up to 16 columns of a matrix of m rows, each of which is multiplied by a number.
struct ColumnArgs {
  const void* x;       // first row, first column
  Dtype dtype;
  int64_t stride, m, count;
  const float* times;  // [m]
};

// Row primitives. `v` is float[kp], 64-byte aligned, kp a multiple of 64. Maxima are the bits of |x|, compared as integers, so NaN wins.
struct RowKernels {
  uint32_t (*load)(const void* row, Dtype dtype, int64_t k, int64_t kp, float* v);  // widen, pad with zeros; maximum
  uint32_t (*maximum)(const float* v, int64_t kp);
  uint32_t (*rotate)(float* v, int64_t kp);                                         // in place; maximum
  // q = rne(v * inverse) ^ flip, 64 codes at a time, `step` bytes from one 64 to the next.
  void (*codes)(const float* v, int64_t kp, float inverse, uint8_t flip, int8_t* q, int64_t step);
  int64_t (*above)(const float* v, int64_t kp, float cut, int64_t capacity, int32_t* index);  // |v| > cut; stops past capacity
  void (*reach)(const float* v, int64_t kp, float threshold, uint8_t* hit);         // hit |= |v| >= threshold
  void (*prologue)(const Prologue& prologue, int64_t k, int64_t kp, float* v);  // in place
  // Fixed-point numbers: in each group of K 16-bit integers times a unit. Of four adjacent ones the 1st, 3rd, 2nd and 4th or, as bytes, their
  // high bytes and then their low ones, both signed. `spans` gets the unit and the sum of v for each group. False where v has a group whose
  // largest magnitude is not 0 and not in kFixedLeast ... kFixedMost.
  bool (*fixed)(const float* v, int64_t kp, int64_t group, bool bytes, int16_t* q, float* spans);
  // The line of least squares of `size` numbers (32, 64 or 128) times `inverse`, as it is stored, and their codes up to `largest`.
  void (*fit)(const float* v, int64_t size, float inverse, int largest, bool integers, float* line, uint8_t* q);
  void (*save)(const float* v, int64_t k, Dtype dtype, void* row);              // rounded to the dtype
  // Codes as `codes` has them, rounded up or down by the noise of a row (common/noise.h); and those of 16 columns, each a row of q, `stride`
  // bytes apart, for 64 rows of x at a time. A column that is not finite gets any codes.
  void (*draw)(const float* v, int64_t kp, float inverse, uint32_t row, uint8_t flip, int8_t* q, int64_t step);
  void (*column_maxima)(const ColumnArgs& args, uint32_t* maxima);  // [16]
  void (*draw_columns)(const ColumnArgs& args, const float* inverse, const uint32_t* keys, uint8_t flip, int8_t* q, int64_t stride, int64_t step);
  // Lines and sums of a panel of S8 from 16 rows of kp codes, or from 16 columns of `rows` rows, filled up with zeros; `stride` bytes apart.
  void (*panel_of_rows)(const int8_t* q, int64_t stride, int64_t kp, int8_t* panel);
  void (*panel_of_columns)(const int8_t* q, int64_t stride, int64_t rows, int64_t kp, int8_t* panel);
};

// Exact elements as bfloat16 rows for tile products: a value is the sum of its parts, which share a column of the weight.
struct ExactTiles {
  const uint16_t* value;   // [m/16][depth/32][16][32]
  const int32_t* columns;  // [depth]: k, or -1
  int64_t depth;           // a multiple of 32
  uint16_t* weights;       // scratch of qgemm_chunk() panels, depth * 16 each
};

// What to bring to L2 while panels are multiplied: those that follow, where they are far away; and what is read next, or null.
struct Fetch {
  bool panels;
  const char* after;
};

// Integer product of m rows of codes with `panels` panels, and its epilogue.
struct QgemmArgs {
  const int8_t* q;       // [m, ldq], or tiles [m/16][kp/64][16][64] for kernels that say so; rows up to a multiple of 16 may be read
  int64_t ldq, m, kp;
  const float* scale;    // [m]
  const int8_t* w;       // first panel
  int64_t panels;
  const float* exact;    // [panels][m][16] or null: the part of the product that stays in float
  const struct ExactTiles* tiles;  // the same part for kernels that multiply it themselves, or null
  Output out;
  Fetch fetch;
};
typedef void QgemmFn(const QgemmArgs* args);

// Chunks of equal size, an even number of at most `limit` panels (or 2).
static inline int64_t even_chunk(int64_t panels, int64_t limit) {
  const int64_t even = limit < 2 ? 2 : limit / 2 * 2, chunks = (panels + even - 1) / even;
  return chunks ? round_up((panels + chunks - 1) / chunks, 2) : 2;
}

// Panels that a kernel with tiles keeps in L2 while rows pass by: about 1 MB with what is widened of them.
static inline int64_t qgemm_chunk(int64_t kp, int64_t depth, int64_t panels) {
  return even_chunk(panels, (1 << 20) / (S8::bytes(kp) + depth * kPanel * 2));
}

// Rows' exact elements: row i has count[i] of them at value/position[i * capacity ...]; positions index `columns`.
struct ExactRows {
  const int32_t* columns;   // k of each column that is exact in any row
  int64_t used;             // length of columns
  const int32_t* count;     // [m]
  const int32_t* position;  // [m, capacity]; null: position e of every row is column e
  const float* value;       // [m, capacity]
  int64_t capacity;
};
// out[i][16] = sum_e value[i][e] * float(panel column); table is scratch of used * 16 floats.
typedef void ExactFn(const ExactRows* rows, int64_t m, const int8_t* panel, float* table, float* out);

// Float product of m rows with integer weights. x is float32 or, for kernels that say so, bfloat16 or in fixed point.
struct FgemmArgs {
  const void* x;         // [m, ldx], zero from K to kp; bfloat16 in tiles [m/16][kp/32][16][32]; fixed-point numbers as RowKernels::fixed makes them
  int64_t ldx, m, kp;
  const int8_t* w;       // panels of the format that the kernel is for
  int64_t panels;
  int64_t group;         // of a format that has groups
  bool rotate;           // undo the rotation of the weight (rows that int8 cannot hold)
  void* scratch;         // fgemm_scratch() bytes, 64-byte aligned
  Output out;
  const float* spans;    // of fixed-point rows: [m][kp/group][2], or null
  Fetch fetch;
};
typedef void FgemmFn(const FgemmArgs* args);

// Products of codes with weights on integer lines (U4Nested), and their panels as those of S8.
struct NestedArgs {
  const int8_t* q;       // [m, ldq]
  int64_t ldq, m, kp, group;
  const float* scale;    // [m]
  const int32_t* sums;   // [m][kp/group]: of the codes of each group
  const int8_t* w;       // first panel
  int64_t panels;
  Output out;
  Fetch fetch;
};
struct NestedKernels {
  void (*product)(const NestedArgs* args);
  void (*expand)(const int8_t* panel, int64_t kp, int64_t group, int8_t* to);
};

// A panel of S8 with its codes rounded to multiples of 2^drop, to nearest even and at most 128 - 2^drop; drop: 1 to 7.
typedef void NarrowFn(const int8_t* panel, int64_t kp, int drop, int8_t* to);

// Two panels as floats, and at least half a megabyte of panels as bfloat16.
static inline int64_t fgemm_scratch(int64_t kp) {
  const int64_t two = kPanel * 2 * kp * 4;
  return two > (1 << 19) ? two : 1 << 19;
}

}  // namespace lowbit
