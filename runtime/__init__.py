"""Ops, reference arithmetic and native kernels; knows nothing of graphs."""

from lowbit_compiler.runtime import cuda_library, library, ops

__all__ = ["cuda_library", "library", "ops"]

library.load()
cuda_library.load()
