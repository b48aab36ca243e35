// Runs chains of products, sums and norms on several threads, and compares the bits of what comes out with those of the scalar kernels, for every
// instruction set of this build and this machine; started by test_neon.py under an emulator, and by `make sanitize` under ThreadSanitizer.
#include <stdio.h>
#include <string.h>

#include <thread>
#include <vector>

#include "common/kernels.h"
#include "linear/chain.h"
#include "linear/parallel.h"

namespace lowbit {

constexpr int kThreads = 3;
int64_t thread_count() { return kThreads; }
void run_tasks(int64_t tasks, void (*task)(int64_t, void*), void* context) {
  std::vector<std::thread> others;
  for (int64_t i = 1; i < tasks; ++i) others.emplace_back(task, i, context);
  task(0, context);
  for (std::thread& other : others) other.join();
}

}  // namespace lowbit

using namespace lowbit;

static uint32_t state = 1;
static float number() {
  state = state * 1664525u + 1013904223u;
  return (float)(int32_t)state * 0x1p-30f;
}

static std::vector<float> numbers(int64_t count) {
  std::vector<float> made((size_t)count);
  for (float& x : made) x = number();
  return made;
}

// A weight [n, k] of random codes, packed.
static std::vector<int8_t> weight(int64_t n, int64_t k) {
  const int64_t panels = (n + kPanel - 1) / kPanel;
  std::vector<int8_t> q((size_t)(n * k)), packed((size_t)(panels * S8::bytes(S8::padded(k))));
  for (int8_t& code : q) code = (int8_t)(number() * 63);
  std::vector<float> scale = numbers(n);
  for (float& s : scale) s = s * s * 0x1p-6f;
  pack<S8>(q.data(), scale.data(), n, k, 0, packed.data());
  return packed;
}

// What follows an attention: r + o(a), its norm, gate and up, the activation times up, down, the sum, the next norm and product.
static uint32_t layer(int64_t rows, int64_t width, int64_t inner, const LinearOp& op) {
  const auto a = numbers(rows * width), r = numbers(rows * width), norm = numbers(width), bias = numbers(width);
  const auto o = weight(width, width), up = weight(2 * inner, width), down = weight(width, inner), q = weight(3, width);
  std::vector<float> sum((size_t)(rows * width)), last((size_t)(rows * 3));
  const auto in = [](const std::vector<float>& x, int64_t columns) { return Value{(void*)x.data(), columns, columns, kF32}; };
  const auto inside = [](int64_t columns) { return Value{nullptr, columns, columns, kBF16}; };
  const Value values[] = {in(a, width), in(r, width), inside(width), inside(width), inside(2 * inner), inside(width), in(sum, width), in(last, 3)};
  const Prologue none = {kIdentity, 0, {}, {}}, rms = {kRmsNorm, 1e-6f, {norm.data(), kF32}, {}}, silu = {kSilu, 0, {}, {}};
  const Slice no = {-1, 0, 0};
  const auto product = [&](Slice x, Slice y, Prologue with, const std::vector<int8_t>& w, const float* plus, int64_t out) {
    return Step{kProduct, x, y, with, &op, w.data(), 0, plus, kF32, out};
  };
  const auto add = [&](Slice x, Slice y, int64_t out) { return Step{kSum, x, y, none, nullptr, nullptr, 0, nullptr, kF32, out}; };
  const Step steps[] = {product({0, 0, width}, no, none, o, nullptr, 2),
                        add({1, 0, width}, {2, 0, width}, 3),
                        product({3, 0, width}, no, rms, up, nullptr, 4),
                        product({4, 0, inner}, {4, inner, inner}, silu, down, bias.data(), 5),
                        add({3, 0, width}, {5, 0, width}, 6),
                        product({6, 0, width}, no, rms, q, nullptr, 7)};
  run_chain({rows, values, 8, steps, 6});
  uint32_t hash = 2166136261u;
  for (const auto* result : {&sum, &last}) {
    for (float x : *result) {
      uint32_t bits;
      memcpy(&bits, &x, 4);
      hash = (hash ^ bits) * 16777619u;
    }
  }
  return hash;
}

static std::vector<uint32_t> all_layers(uint32_t isa) {
  set_active_isa(isa);
  state = 1;
  std::vector<uint32_t> found;
  for (const LinearOp* op : {&kS8S8, &kS8S8Rotated}) {
    for (const int64_t rows : {1, 2, 7, 33, 600}) found.push_back(layer(rows, 80, 192, *op));
    found.push_back(layer(5, 576, 1536, *op));
  }
  return found;
}

int main() {
  if (!force_kernel("rows_scalar")) return 1;  // norms and activations are equal within bounds only, products to the bit
  const std::vector<uint32_t> expected = all_layers(kScalar);
  int compared = 0;
  for (uint32_t isa = kScalar, all = detect_isa(), mask = isa; (isa <<= 1) <= all;) {
    if (!(all & isa)) continue;
    mask |= isa;
    const std::vector<uint32_t> got = all_layers(mask);
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i] != expected[i]) return printf("layer %d differs with instruction sets %x\n", (int)i, mask), 1;
    }
    ++compared;
  }
  printf("chains equal with %d instruction sets\n", compared);
}
