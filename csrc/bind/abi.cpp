// What runtime/library.py looks for in the file before it loads it: loading registers the kernels, whatever arguments they take. The number
// there and here changes with the schemas of the ops and with the functions that Python calls, which tests/runtime/test_library.py notices,
// and with the layout of packed weights and the bits of the ISA levels.
#include "common/export.h"

LOWBIT_EXPORT const char* lowbit_abi() { return "lowbit abi 11"; }
