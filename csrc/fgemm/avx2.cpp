#include "vec/avx2.h"
#include "fgemm/fixed.h"

namespace lowbit {
namespace {

struct Pairs {
  Words sum = no_words();
  void add(Words codes, const int16_t* x) {
    sum = add_pairs(add_pairs(sum, even_bytes(codes), splat_word(x)), odd_bytes(codes), splat_word(x + 2));
  }
  Vec total() const { return as_floats(sum); }
};

}  // namespace

#define DEFINE(name, Format) \
  void fgemm_f32##name##_6x16_avx2(const FgemmArgs* args) { product<6, 2, 1>(args, Format::bytes(args->kp, args->group), unpack<Format>); }
LOWBIT_FORMATS(DEFINE)

#define LINES(name, Format) \
  void fgemm_f32##name##_6x16_avx2(const FgemmArgs* args) { product<6, 2, 1>(args, Format::bytes(args->kp, args->group), unpack_lines<Format>); }
LOWBIT_PLANES(LINES)

#define FIXED(name, Format) \
  void fgemm_s16##name##_4x16_avx2(const FgemmArgs* args) { fixed_product<Format, Pairs>(args); }
LOWBIT_FIXED(FIXED)

}  // namespace lowbit
