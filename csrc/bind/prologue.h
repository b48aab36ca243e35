// The arguments of an op that say what a row goes through before it is quantized.
#pragma once
#include "bind/tensors.h"

namespace lowbit {

struct PrologueArguments {
  const std::string& function;
  const std::optional<Tensor>& times;
  const std::optional<Tensor>& plus;
  double eps;
};

struct PrologueOwner {
  std::optional<Tensor> times, plus;
};
// Writes matrix.prologue; the result owns what it points to. Raises as _before of runtime/checks.py does.
PrologueOwner set_prologue(const char* op, const Tensor& x, const PrologueArguments& arguments, Matrix& matrix);

}  // namespace lowbit
