// Quantizing and packing of formats whose codes are on lines (csrc/formats/lines.h): on the CPU alone. Checks and their words are those of runtime/format_checks.py.
#include "bind/cpu.h"
#include "bind/parts.h"

namespace lowbit {
namespace {

template <class A>
constexpr const char* kQuantize = "";
#define LOWBIT_QUANTIZE(name, Format) \
  template <>                         \
  constexpr const char* kQuantize<Format> = "quantize_" #name;
LOWBIT_LINES(LOWBIT_QUANTIZE)
#undef LOWBIT_QUANTIZE

template <class Number>
constexpr ScalarType kTypeOf = ScalarType::Half;  // kept in 16 bits as they are
template <>
constexpr ScalarType kTypeOf<uint8_t> = ScalarType::Byte;
template <>
constexpr ScalarType kTypeOf<int8_t> = ScalarType::Char;
template <>
constexpr ScalarType kTypeOf<float> = ScalarType::Float;
template <class A>
constexpr ScalarType kScaleType = kTypeOf<typename A::Scale>;
template <class A>
constexpr ScalarType kMinimumType = kTypeOf<typename A::Minimum>;

template <class A>
Tensor op_pack(const Tensor& q, const Tensor& scale, const Tensor& minimum, const Tensor& outer, int64_t group) {
  const char* op = NamesOf<A>::pack;
  const Arguments arguments = {{"q", q}, {"scale", scale}, {"minimum", minimum}, {"outer", outer}};
  check_tensors(op, Cpu::type(), arguments);
  check_group<A>(op, group);
  EXPECT(op, q.scalar_type() == ScalarType::Byte && q.dim() == 2, "q in uint8 of 2 dimensions, got ", name(q.scalar_type()), " of ", q.dim(),
         " dimensions");
  const int64_t n = q.size(0), k = q.size(1), groups = (k + group - 1) / group;
  check_part(op, "scale", scale, kScaleType<A>, n, groups);
  check_part(op, "minimum", minimum, kMinimumType<A>, n, groups);
  check_part(op, "outer", outer, ScalarType::Float, n, 1);
  check_memory(op, arguments);
  const Tensor codes = dense(q), scales = dense(scale), minima = dense(minimum), outers = dense(outer);
  check_codes(op, (const uint8_t*)codes.const_data_ptr(), codes.numel(), A::kMost);
  const int64_t sizes[2] = {round_up(n, kPanel) / kPanel, A::bytes(A::padded(k, group), group)}, strides[2] = {sizes[1], 1};
  Tensor out = empty(sizes, strides, 2, shim_dtype(ScalarType::Char));
  const LineParts parts = {(const uint8_t*)codes.const_data_ptr(), scales.const_data_ptr(), minima.const_data_ptr(), (const float*)outers.const_data_ptr()};
  pack_lines<A>(parts, n, k, group, (int8_t*)out.mutable_data_ptr());
  return out;
}

template <class A>
auto op_quantize(const Tensor& w, int64_t group) {
  const char* op = kQuantize<A>;
  check_tensors(op, Cpu::type(), {{"w", w}});
  EXPECT(op, is_float(w.scalar_type()), "w in float32, bfloat16 or float16, got ", name(w.scalar_type()));
  EXPECT(op, w.dim() == 2, "w of shape [N, K], got ", w.dim(), " dimensions");
  EXPECT(op, w.size(1) >= 1, "K of at least 1, got 0");
  check_group<A>(op, group);
  check_memory(op, {{"w", w}});
  const Rows rows = rows_of(w);
  const int64_t k = rows.matrix.columns, groups = (k + group - 1) / group;
  Tensor q = allocate(w, k, ScalarType::Byte), scale = allocate(w, groups, kScaleType<A>), minimum = allocate(w, groups, kMinimumType<A>);
  Tensor outer = allocate(w, 1, ScalarType::Float);
  if (w.size(0)) {
    quantize_lines<A>(rows.matrix, group, (uint8_t*)q.mutable_data_ptr(), scale.mutable_data_ptr(), minimum.mutable_data_ptr(),
                      (float*)outer.mutable_data_ptr());
  }
  return std::make_tuple(q, scale, minimum, outer);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) {
#define LOWBIT_REGISTER(name, Format)                         \
  m.impl(kQuantize<Format>, TORCH_BOX(&op_quantize<Format>)); \
  m.impl(NamesOf<Format>::pack, TORCH_BOX(&op_pack<Format>));
  LOWBIT_LINES(LOWBIT_REGISTER)
#undef LOWBIT_REGISTER
#define LOWBIT_REGISTER(name, Format)                                              \
  m.impl(NamesOf<Format>::linear, TORCH_BOX(&Ops<Cpu>::op_float_grouped<Format>)); \
  m.impl(NamesOf<Format>::pack, TORCH_BOX(&op_pack<Format>));
  LOWBIT_FILE_LINES(LOWBIT_REGISTER)
#undef LOWBIT_REGISTER
}

}  // namespace lowbit
