"""Ops, reference arithmetic and native kernels; knows nothing of graphs."""
