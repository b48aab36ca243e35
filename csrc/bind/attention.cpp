// The CPU kernels of lowbit::sdpa and lowbit::sdpa_codes. Checks and their words are those of runtime/checks.py.
#include "attention/attention.h"
#include "bind/checks.h"

namespace lowbit {
namespace {

// The last dimension dense; copied only where it is not.
Tensor dense_rows(const Tensor& x) {
  if (is_misaligned(x)) return dense_rows(torch::stable::clone(x));
  const int64_t last = x.dim() - 1;
  return x.size(last) <= 1 || x.stride(last) == 1 ? x : made_contiguous(x);
}

Heads heads_of(const Tensor& x) { return {x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)}; }

AttentionMask mask_of(const Tensor& mask) {
  const bool keep = mask.scalar_type() == ScalarType::Bool;
  AttentionMask out = {keep ? kBoolMask : kFloatMask, keep ? kF32 : dtype_of(mask.scalar_type()), mask.const_data_ptr(), 0, 0, 0, 0};
  int64_t* strides[4] = {&out.batch, &out.head, &out.row, &out.column};
  for (int64_t d = 0; d < mask.dim(); ++d) {
    *strides[4 - mask.dim() + d] = mask.size(d) == 1 ? 0 : mask.stride(d);
  }
  return out;
}

void check_shapes(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask) {
  for (const Argument& heads : {Argument("q", q), Argument("k", k), Argument("v", v)}) {
    EXPECT(op, heads.tensor->dim() == 4, heads.name, " of 4 dimensions, got ", heads.tensor->dim());
  }
  const int64_t sizes[4] = {q.size(0), q.size(1), q.size(2), k.size(2)};
  EXPECT(op, k.size(0) == sizes[0] && k.size(3) == q.size(3), "k of shape (", sizes[0], ", G, S, ", q.size(3), "), got ", shape(k));
  EXPECT(op, v.size(0) == sizes[0] && v.size(1) == k.size(1) && v.size(2) == k.size(2), "v of shape (", sizes[0], ", ", k.size(1), ", ", k.size(2),
         ", F), got ", shape(v));
  EXPECT(op, k.size(1) > 0 && sizes[1] % k.size(1) == 0, "query heads that are a multiple of key heads, got ", sizes[1], " and ", k.size(1));
  if (mask) check_mask(op, *mask, sizes, 4);
  check_result(op, sizes[0] * sizes[1] * sizes[2], v.size(3));
}

struct Scales {
  Heads k, v;  // no data where k and v are floats
};

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Scales& scales, const std::optional<Tensor>& mask, bool causal, double scale) {
  const Tensor queries = dense_rows(q), keys = dense_rows(k), values = dense_rows(v);
  Attention call = {heads_of(queries), heads_of(keys), heads_of(values), {}, nullptr, dtype_of(q.scalar_type()), q.size(0), q.size(1), k.size(1),
                    q.size(2), k.size(2), q.size(3), v.size(3), causal, (float)scale, scales.k, scales.v};
  std::optional<Tensor> held;
  if (mask) {
    held = mask->dim() > 0 ? dense_rows(*mask) : *mask;
    call.mask = mask_of(*held);
  }
  Tensor out = allocate_heads(q.size(0), q.size(2), q.size(1), v.size(3), q.scalar_type());
  call.out = out.mutable_data_ptr();
  if (out.numel()) sdpa(call);
  return out;
}

Tensor op_sdpa(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask, bool causal, double scale) {
  const Arguments arguments = {{"q", q}, {"k", k}, {"v", v}, {"mask", mask}};
  check_tensors("sdpa", aoti_torch_device_type_cpu(), arguments);
  for (const Argument& heads : {Argument("q", q), Argument("k", k), Argument("v", v)}) {
    const ScalarType type = heads.tensor->scalar_type();
    EXPECT("sdpa", is_float(type) && type == q.scalar_type(), "q, k, v in one of float32, bfloat16, float16, got ", name(type));
  }
  check_shapes("sdpa", q, k, v, mask);
  check_memory("sdpa", arguments);
  return attend(q, k, v, {}, mask, causal, scale);
}

// Scales [B, G, S, 1] side by side.
Tensor dense_scales(const Tensor& x) {
  const bool dense = x.size(2) <= 1 || x.stride(2) == 1;
  return is_misaligned(x) ? made_contiguous(torch::stable::clone(x)) : dense ? x : made_contiguous(x);
}

Tensor op_sdpa_codes(const Tensor& q, const Tensor& k, const Tensor& k_scale, const Tensor& v, const Tensor& v_scale, const std::optional<Tensor>& mask,
                     bool causal, double scale) {
  const Arguments arguments = {{"q", q}, {"k", k}, {"k_scale", k_scale}, {"v", v}, {"v_scale", v_scale}, {"mask", mask}};
  check_tensors("sdpa_codes", aoti_torch_device_type_cpu(), arguments);
  EXPECT("sdpa_codes", is_float(q.scalar_type()), "q in float32, bfloat16 or float16, got ", name(q.scalar_type()));
  for (const Argument& codes : {Argument("k", k), Argument("v", v)}) {
    EXPECT("sdpa_codes", codes.tensor->scalar_type() == ScalarType::Char, codes.name, " in int8, got ", name(codes.tensor->scalar_type()));
  }
  check_shapes("sdpa_codes", q, k, v, mask);
  for (const Argument& scales : {Argument("k_scale", k_scale), Argument("v_scale", v_scale)}) {
    const Tensor& t = *scales.tensor;
    EXPECT("sdpa_codes", t.scalar_type() == ScalarType::Float, scales.name, " in float32, got ", name(t.scalar_type()));
    const bool fits = t.dim() == 4 && t.size(0) == k.size(0) && t.size(1) == k.size(1) && t.size(2) == k.size(2) && t.size(3) == 1;
    EXPECT("sdpa_codes", fits, scales.name, " of shape (", k.size(0), ", ", k.size(1), ", ", k.size(2), ", 1), got ", shape(t));
  }
  check_memory("sdpa_codes", arguments);
  const Tensor of_keys = dense_scales(k_scale), of_values = dense_scales(v_scale);
  return attend(q, k, v, {heads_of(of_keys), heads_of(of_values)}, mask, causal, scale);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) {
  m.impl("sdpa", TORCH_BOX(&op_sdpa));
  m.impl("sdpa_codes", TORCH_BOX(&op_sdpa_codes));
}

}  // namespace lowbit
