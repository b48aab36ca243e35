"""Ops, reference arithmetic and native kernels; knows nothing of graphs."""

from lowbit_compiler.runtime import library, ops

__all__ = ["library", "ops"]

library.load()
