"""Tensors that have everything but values."""

from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["FakeTensor"]
