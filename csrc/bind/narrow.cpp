// Products with weights that are read in the width behind their panels (csrc/formats/d8.h), on the CPU.
#include "bind/cpu.h"

namespace lowbit {
namespace {

template <Treatment treatment>
Tensor op_narrow(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, OptionalType dtype, const std::string& prologue,
                 const OptionalTensor& times, const OptionalTensor& plus, double eps) {
  const PrologueArguments before = {prologue, times, plus, eps};
  const auto run = [](Cpu&, const Linear& call, const LinearArguments& a) {
    const int width = D8::width(call.w, round_up(call.n, kPanel) / kPanel, D8::padded(call.x.columns));
    EXPECT(a.op, width == 4 || width == 6 || width == 8, "a width in (4, 6, 8) behind the panels, got ", width);
    linear_s8d8(call, treatment, width);
  };
  const char* op = treatment == kRotation ? "linear_s8d8_rotated" : "linear_s8d8";
  return Ops<Cpu>::linear_with<D8>({op, x, w, bias, n, 0, dtype, 0, &before}, run, kMaxKNarrow, treatment == kRotation);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) {
  m.impl("linear_s8d8", TORCH_BOX(&op_narrow<kNone>));
  m.impl("linear_s8d8_rotated", TORCH_BOX(&op_narrow<kRotation>));
}

}  // namespace lowbit
