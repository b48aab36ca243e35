// Where scores come from, tile by tile. Include one of the vectors first.
#pragma once
#include "softmax/softmax.h"

namespace lowbit {
namespace {

constexpr int64_t kTile = 64 * Vec::kWidth;
constexpr int64_t kGroup = 8;              // short rows that go through each pass together: the latencies of one hide behind the others
constexpr int64_t kMemory = 4 * kTile;     // floats that the rows of a group share for scores that are computed
constexpr int64_t kAhead = 4096;            // bytes
const float kInfinity = __builtin_inff();

// Scores read as they lie.
template <Dtype dtype, bool scaled>
struct View {
  const void* x;
  Vec scale;
  Vec at(int64_t i) const {
    // The exponentials between two loads leave the processor's own look-ahead too short, and it ends at every page.
    __builtin_prefetch((const char*)x + i * element_size(dtype) + kAhead);
    return scaled ? load_as<dtype>(x, i) * scale : load_as<dtype>(x, i);
  }
  Vec at(int64_t i, int64_t count) const {  // -Inf past the end
    if (!scaled) return load_as<dtype>(x, i, count, -kInfinity);
    float lanes[Vec::kWidth];
    store(lanes, load_as<dtype>(x, i, count, 0.0f) * scale);
    return load_as<kF32>(lanes, 0, count, -kInfinity);
  }
};
typedef View<kF32, false> Floats;

template <Dtype dtype, bool scaled>
struct Direct {
  typedef View<dtype, scaled> Tile;
  Tile row;
  Direct(const SoftmaxSpec& spec, const SoftmaxRow& part, float*) : row{part.x, splat((float)spec.scale)} {}
  Tile tile(int64_t i, int64_t) { return {(const char*)row.x + i * element_size(dtype), row.scale}; }
};

// f(i, count) for every vector of `count` elements.
template <class F>
inline void each_vector(int64_t count, F f) {
  for (int64_t i = 0; i < count; i += Vec::kWidth) f(i, count - i < Vec::kWidth ? count - i : Vec::kWidth);
}

// Inlined by force: vectors inside f would go through memory.
template <class F>
__attribute__((always_inline)) inline void with_dtype(Dtype dtype, const F& f) {
  if (dtype == kF32) f.template call<kF32>();
  else if (dtype == kBF16) f.template call<kBF16>();
  else f.template call<kF16>();
}

struct Widen {
  const void* from;
  int64_t begin, count;
  float* to;
  template <Dtype dtype>
  void call() const {
    each_vector(count, [&](int64_t i, int64_t some) {
      __builtin_prefetch((const char*)from + (begin + i) * element_size(dtype) + kAhead);
      store(to + i, load_as<dtype>(from, begin + i, some, 0.0f));
    });
  }
};

struct AddMask {
  const void* from;
  int64_t begin, count;
  Vec scale;
  float* s;
  template <Dtype dtype>
  void call() const {
    each_vector(count, [&](int64_t i, int64_t some) { store(s + i, fma(load(s + i), scale, load_as<dtype>(from, begin + i, some, 0.0f))); });
  }
};

// x * scale with a mask, computed a tile at a time into memory that stays in the first cache.
struct Masked {
  typedef Floats Tile;
  const SoftmaxSpec& spec;
  const SoftmaxRow& part;
  float* s;

  Masked(const SoftmaxSpec& a, const SoftmaxRow& b, float* memory) : spec(a), part(b), s(memory) {}

  Floats tile(int64_t begin, int64_t count) {
    const Vec scale = splat((float)spec.scale);
    with_dtype(spec.dtype, Widen{part.x, begin, count, s});
    if (spec.mask_splat) {
      const Vec added = splat(splat_value());
      each_vector(count, [&](int64_t i, int64_t) { store(s + i, fma(load(s + i), scale, added)); });
    } else if (spec.mask == kFloatMask) {
      with_dtype(spec.mask_dtype, AddMask{part.mask, begin, count, scale, s});
    } else {
      const uint8_t* keep = (const uint8_t*)part.mask + begin;
      each_vector(count, [&](int64_t i, int64_t some) { store(s + i, select(bytes_set(keep + i, some), load(s + i) * scale, splat(-kInfinity))); });
    }
    return {s, scale};
  }

  float splat_value() const {
    if (spec.mask == kBoolMask) return *(const uint8_t*)part.mask ? 0.0f : -kInfinity;
    float value[Vec::kWidth];
    with_dtype(spec.mask_dtype, Widen{part.mask, 0, 1, value});
    return value[0];
  }
};

// The same in double, less `shift`: for rows whose float scores are too large to be told apart, or overflow. A float mask is added as
// elsewhere, with a rounding to float: next to -1e9 in all of a row, scores are to vanish as they do in frameworks.
struct Careful {
  const SoftmaxSpec& spec;
  const SoftmaxRow& part;
  double shift = 0;
  alignas(64) float s[kTile], added[kTile];
  double exact[kTile];

  Careful(const SoftmaxSpec& a, const SoftmaxRow& b) : spec(a), part(b) {}

  void scores(int64_t begin, int64_t count) {
    with_dtype(spec.dtype, Widen{part.x, begin, count, s});
    for (int64_t i = 0; i < count; ++i) exact[i] = (double)s[i] * spec.scale;
    if (spec.mask == kFloatMask) {
      with_dtype(spec.mask_dtype, Widen{part.mask, spec.mask_splat ? 0 : begin, spec.mask_splat ? 1 : count, added});
      for (int64_t i = 1; spec.mask_splat && i < count; ++i) added[i] = added[0];
      for (int64_t i = 0; i < count; ++i) {
        const double sum = exact[i] + added[i];
        const float rounded = (float)sum;
        exact[i] = __builtin_fabsf(rounded) < kInfinity ? rounded : sum;
      }
    } else if (spec.mask == kBoolMask) {
      const uint8_t* keep = (const uint8_t*)part.mask + (spec.mask_splat ? 0 : begin);
      for (int64_t i = 0; i < count; ++i) exact[i] = keep[spec.mask_splat ? 0 : i] ? exact[i] : -__builtin_inf();
    }
  }

  // The maximum; NaN if there is one.
  double top() {
    constexpr int64_t kLanes = 8;
    double most[kLanes], nan[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) most[k] = -__builtin_inf(), nan[k] = 0;
    for (int64_t i = 0; i < part.n; i += kTile) {
      const int64_t count = part.n - i < kTile ? part.n - i : kTile;
      scores(i, count);
      for (int64_t j = count; j % kLanes; ++j) exact[j] = -__builtin_inf();
      for (int64_t j = 0; j < count; j += kLanes) {
        for (int64_t k = 0; k < kLanes; ++k) {
          const double e = exact[j + k];
          most[k] = e > most[k] ? e : most[k];
          nan[k] = e != e ? e : nan[k];
        }
      }
    }
    for (int64_t k = 1; k < kLanes; ++k) {
      most[0] = most[k] > most[0] ? most[k] : most[0];
      nan[0] += nan[k];
    }
    return most[0] + nan[0];
  }

  Floats tile(int64_t begin, int64_t count) {
    scores(begin, count);
    for (int64_t i = 0; i < count; ++i) s[i] = (float)(exact[i] - shift);
    return {s, splat(1.0f)};
  }
};

}  // namespace
}  // namespace lowbit
