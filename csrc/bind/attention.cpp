// The CPU kernel of lowbit::sdpa. Checks and their words are those of runtime/checks.py.
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

Tensor op_sdpa(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask, bool causal, double scale) {
  const Arguments arguments = {{"q", q}, {"k", k}, {"v", v}, {"mask", mask}};
  check_tensors("sdpa", aoti_torch_device_type_cpu(), arguments);
  for (const Argument& heads : {Argument("q", q), Argument("k", k), Argument("v", v)}) {
    const ScalarType type = heads.tensor->scalar_type();
    EXPECT("sdpa", is_float(type) && type == q.scalar_type(), "q, k, v in one of float32, bfloat16, float16, got ", name(type));
    EXPECT("sdpa", heads.tensor->dim() == 4, heads.name, " of 4 dimensions, got ", heads.tensor->dim());
  }
  const int64_t sizes[4] = {q.size(0), q.size(1), q.size(2), k.size(2)};
  EXPECT("sdpa", k.size(0) == sizes[0] && k.size(3) == q.size(3), "k of shape (", sizes[0], ", G, S, ", q.size(3), "), got ",
         shape(k));
  EXPECT("sdpa", v.size(0) == sizes[0] && v.size(1) == k.size(1) && v.size(2) == k.size(2), "v of shape (", sizes[0], ", ", k.size(1), ", ", k.size(2),
         ", F), got ", shape(v));
  EXPECT("sdpa", k.size(1) > 0 && sizes[1] % k.size(1) == 0, "query heads that are a multiple of key heads, got ", sizes[1], " and ", k.size(1));
  if (mask) check_mask("sdpa", *mask, sizes, 4);
  check_result("sdpa", sizes[0] * sizes[1] * sizes[2], v.size(3));
  check_memory("sdpa", arguments);
  const Tensor queries = dense_rows(q), keys = dense_rows(k), values = dense_rows(v);
  Attention call = {heads_of(queries), heads_of(keys), heads_of(values), {}, nullptr, dtype_of(q.scalar_type()), sizes[0], sizes[1], k.size(1),
                    sizes[2], sizes[3], q.size(3), v.size(3), causal, (float)scale};
  std::optional<Tensor> held;
  if (mask) {
    held = mask->dim() > 0 ? dense_rows(*mask) : *mask;
    call.mask = mask_of(*held);
  }
  Tensor out = allocate_heads(sizes[0], sizes[2], sizes[1], v.size(3), q.scalar_type());
  call.out = out.mutable_data_ptr();
  if (out.numel()) sdpa(call);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) { m.impl("sdpa", TORCH_BOX(&op_sdpa)); }

}  // namespace lowbit
