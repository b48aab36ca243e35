// The ops of codes for chosen numbers (csrc/formats/codebook.h), on the CPU alone, and the product of int8 rows with ternary weights. Checks and their
// words are those of runtime/format_checks.py.
#include "bind/cpu.h"
#include "bind/parts.h"

namespace lowbit {
namespace {

template <class A>
Tensor op_pack(const Tensor& q, const Tensor& scale, const Tensor& outer, int64_t group) {
  const char* op = NamesOf<A>::pack;
  const Arguments arguments = {{"q", q}, {"scale", scale}, {"outer", outer}};
  check_tensors(op, Cpu::type(), arguments);
  check_group<A>(op, group);
  EXPECT(op, q.scalar_type() == ScalarType::Byte && q.dim() == 2, "q in uint8 of 2 dimensions, got ", name(q.scalar_type()), " of ", q.dim(),
         " dimensions");
  const int64_t n = q.size(0), k = q.size(1);
  check_part(op, "scale", scale, ScalarType::Half, n, (k + group - 1) / group);
  check_part(op, "outer", outer, ScalarType::Float, n, 1);
  check_memory(op, arguments);
  const Tensor codes = dense(q), scales = dense(scale), outers = dense(outer);
  check_codes(op, (const uint8_t*)codes.const_data_ptr(), codes.numel(), A::kMost);
  const int64_t sizes[2] = {round_up(n, kPanel) / kPanel, A::bytes(A::padded(k, group), group)}, strides[2] = {sizes[1], 1};
  Tensor out = empty(sizes, strides, 2, shim_dtype(ScalarType::Char));
  const LineParts parts = {(const uint8_t*)codes.const_data_ptr(), scales.const_data_ptr(), nullptr, (const float*)outers.const_data_ptr()};
  pack_lines<A>(parts, n, k, group, (int8_t*)out.mutable_data_ptr());
  return out;
}

Tensor op_s8ternary(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, OptionalType dtype, const std::string& prologue,
                    const OptionalTensor& times, const OptionalTensor& plus, double eps) {
  const PrologueArguments before = {prologue, times, plus, eps};
  const auto run = [](Cpu&, const Linear& call, const LinearArguments&) { linear_s8ternary(call); };
  return Ops<Cpu>::linear_with<Ternary>({"linear_s8ternary", x, w, bias, n, 0, dtype, 0, before}, run, kMaxK, false);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) {
#define LOWBIT_REGISTER(name, Format)                                              \
  m.impl(NamesOf<Format>::linear, TORCH_BOX(&Ops<Cpu>::op_float_grouped<Format>)); \
  m.impl(NamesOf<Format>::pack, TORCH_BOX(&op_pack<Format>));
  LOWBIT_CODEBOOKS(LOWBIT_REGISTER)
#undef LOWBIT_REGISTER
  m.impl("linear_s8ternary", TORCH_BOX(&op_s8ternary));
}

}  // namespace lowbit
