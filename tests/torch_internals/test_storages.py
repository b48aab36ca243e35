"""Canaries: torch still lets its memory refuse to be written to, and keeps one Python object for each storage."""

import gc
import weakref

import pytest
import torch

from lowbit_compiler.torch_internals.storages import refuse_writing


def test_writing_is_refused() -> None:
    """Since torch 2.1."""
    tensor = torch.zeros(4)
    tensor.untyped_storage().resize_(0)
    refuse_writing(tensor)
    with pytest.raises(RuntimeError, match="Cannot access data pointer"):
        tensor.zero_()


def test_one_object_for_a_storage() -> None:
    """What the store and the watches rest on; public, but written down nowhere."""
    tensor, gone = torch.zeros(4), []
    reference = weakref.ref(tensor.untyped_storage(), gone.append)
    gc.collect()
    assert reference() is tensor.untyped_storage()
    assert tensor.view(2, 2).untyped_storage() is tensor.untyped_storage()
    tensor.data = torch.zeros(4)
    assert gone
