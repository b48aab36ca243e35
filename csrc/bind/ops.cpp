// The ops on the CPU.
#include "bind/cpu.h"

namespace lowbit {

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) { Ops<Cpu>::register_all(m); }

}  // namespace lowbit
