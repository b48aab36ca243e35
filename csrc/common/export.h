// What runtime/kernels.py calls through ctypes.
#pragma once

#define LOWBIT_EXPORT extern "C" __attribute__((visibility("default")))
