// Rows that go through several steps in one parallel region: what lies between two products is neither a call nor a tensor.
#pragma once
#include "linear/product.h"

namespace lowbit {

// Rows of numbers: an input, a result, or what only the steps see.
struct Value {
  void* data;      // null: in scratch
  int64_t stride;  // elements between rows
  int64_t columns;
  Dtype dtype;
};

// `count` columns of a value.
struct Slice {
  int64_t value, first, count;
};

enum StepKind { kProduct, kSum, kApply };

// kProduct: prologue(x) times a packed weight. kSum: x + y. kApply: prologue(x). Results are rounded to the dtype of `out`.
struct Step {
  StepKind kind;
  Slice x, y;         // y: the other summand, or what the prologue multiplies by where that is a value; y.value < 0: none
  Prologue prologue;  // with constants
  const LinearOp* op;  // of a product, with what follows
  const int8_t* w;
  int64_t group;
  const void* bias;    // [columns of out] or null
  Dtype bias_dtype;
  int64_t out;         // the value that this step makes
};

struct Chain {
  int64_t rows;
  const Value* values;
  int64_t value_count;
  const Step* steps;
  int64_t step_count;
};

void run_chain(const Chain& chain);

}  // namespace lowbit
