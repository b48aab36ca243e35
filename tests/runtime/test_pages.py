"""Packed weights on large pages."""

import weakref

import pytest
import torch

from lowbit_compiler.runtime import pages
from lowbit_compiler.runtime.pages import CHUNK, LARGE, LINE, Pages


@pytest.mark.parametrize("size", [1, LINE, 1000, LARGE - 1, LARGE, 3 * LARGE + 5])
def test_the_same_bytes_at_a_line(size: int) -> None:
    tensor = torch.randint(-128, 128, (size,), dtype=torch.int8)
    laid = Pages().lay(tensor)
    assert torch.equal(laid, tensor)
    assert laid.data_ptr() % LINE == 0
    assert laid.data_ptr() != tensor.data_ptr()


def test_small_ones_share_a_large_page_and_large_ones_do_not() -> None:
    lay = Pages().lay
    first, second, large = lay(torch.ones(5, 7)), lay(torch.zeros(3)), lay(torch.zeros(LARGE, dtype=torch.uint8))
    assert first.data_ptr() % LARGE == 0
    assert second.data_ptr() == first.data_ptr() + 3 * LINE
    assert large.data_ptr() % LARGE == 0
    assert large.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
    assert torch.equal(first, torch.ones(5, 7))


def test_memory_goes_with_the_last_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = []
    chunk = pages._chunk

    def made(size: int) -> torch.Tensor:
        memory = chunk(size)
        chunks.append(weakref.ref(memory.untyped_storage()))
        return memory

    monkeypatch.setattr(pages, "_chunk", made)
    lay = Pages().lay
    kept = [lay(torch.zeros(CHUNK // 4, dtype=torch.uint8)) for _ in range(5)]
    assert len(chunks) == 5  # of 2 MB each
    small = [lay(torch.zeros(CHUNK // 16, dtype=torch.uint8)) for _ in range(17)]
    assert len(chunks) == 7
    del kept, small[:16]
    assert [chunk() is not None for chunk in chunks] == [False] * 6 + [True]
    del small
    assert chunks[-1]() is None
    assert lay(torch.zeros(8)).numel() == 8


def test_elsewhere_tensors_stay_as_they_are() -> None:
    for tensor in (torch.zeros(4, 6).t(), torch.zeros(0), torch.zeros(3, device="meta")):
        assert Pages().lay(tensor) is tensor
    with torch.device("meta"):
        assert Pages().lay(torch.zeros(3, device="cpu")).device.type == "cpu"
