"""Fingerprints: the native hash is that of the reference, samples spread over rows and columns, and every way to lie in memory is read."""

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lowbit_compiler.runtime import fingerprint
from lowbit_compiler.runtime.fingerprint import LINE, SAMPLES, Places, content, sampled

LAYOUTS = {
    "one": lambda: torch.randn(1),
    "empty": lambda: torch.randn(0, 7),
    "odd": lambda: torch.randn(37, 11),
    "large": lambda: torch.randn(512, 700),
    "bfloat16": lambda: torch.randn(600, 1000).bfloat16(),
    "float64": lambda: torch.randn(20, 30).double(),
    "int8": lambda: torch.randint(-99, 99, (40, 50), dtype=torch.int8),
    "transposed": lambda: torch.randn(128, 96).t(),
    "columns of more": lambda: torch.randn(64, 256)[:, 32:96],
    "every other": lambda: torch.randn(64, 256)[:, ::2],
    "permuted": lambda: torch.randn(8, 9, 70).permute(2, 0, 1),
    "expanded": lambda: torch.randn(1, 40).expand(30, 40),
    "unaligned": lambda: torch.randn(4097)[1:],
}


def pieces(tensor: Tensor) -> list[tuple[int, int]]:
    return sampled(tensor) + [(tensor.data_ptr(), tensor.itemsize)] * bool(tensor.numel())


@pytest.mark.skipif(fingerprint._native() is None, reason="without the native library there is only the reference")
@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_native_is_the_reference(monkeypatch: pytest.MonkeyPatch, make: object) -> None:
    tensor = make()  # type: ignore[operator]
    native = Places(pieces(tensor)).hash(), content(tensor)
    monkeypatch.setattr(fingerprint, "_native", lambda: None)
    monkeypatch.setattr(fingerprint, "CHUNK", 4 * LINE)  # several chunks count their lines on
    assert (Places(pieces(tensor)).hash(), content(tensor)) == native


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_samples_are_within(make: object) -> None:
    """Every sampled byte belongs to an element of the tensor, not to what lies between its rows."""
    tensor = make()  # type: ignore[operator]
    index = torch.arange(tensor.untyped_storage().nbytes() // tensor.itemsize).as_strided(
        tensor.shape, tensor.stride(), tensor.storage_offset()
    )
    own = set(index.flatten().tolist())
    for address, length in sampled(tensor):
        first = (address - tensor.untyped_storage().data_ptr()) // tensor.itemsize
        assert own.issuperset(range(first, first + length // tensor.itemsize))
        assert length % tensor.itemsize == 0


@pytest.mark.parametrize(
    "make", [make for name, make in LAYOUTS.items() if name != "empty"], ids=[name for name in LAYOUTS if name != "empty"]
)
def test_every_dense_write_is_seen(make: object) -> None:
    tensor = make()  # type: ignore[operator]
    if tensor.stride()[0] == 0:
        tensor = tensor[0]  # torch writes to no expanded tensor
    seen, whole = Places(sampled(tensor)), content(tensor)
    before = {seen.hash()}
    for write in (lambda x: x.neg_(), lambda x: x.add_(1), lambda x: x.mul_(2), lambda x: x.zero_()):
        write(tensor)
        assert seen.hash() not in before
        assert content(tensor) != whole
        before.add(seen.hash())


def test_any_element_changes_the_content() -> None:
    tensor = torch.randn(33, 17)
    whole = content(tensor)
    for i in range(tensor.numel()):
        value = tensor.view(-1)[i].item()
        tensor.view(-1)[i] = value + 1
        assert content(tensor) != whole
        tensor.view(-1)[i] = value
    assert content(tensor) == whole


@pytest.mark.parametrize("part", [0.25, 0.5])
def test_samples_spread(part: float) -> None:
    """Any quarter of the rows or columns of a large matrix has a sampled line: lines lie in bands, and differ in their columns."""
    tensor = torch.zeros(2048, 2048)
    places = Places(sampled(tensor))
    assert len(sampled(tensor)) == SAMPLES[1]
    size = int(part * 2048)
    for start in range(0, 2048 - size + 1, size):
        for block in (tensor[start : start + size], tensor[:, start : start + size]):
            before = places.hash()
            block.add_(1)
            assert places.hash() != before


def test_forgotten_memory_is_not_read() -> None:
    places = Places([(8, 64)])  # no such memory
    places.forget()
    assert places.hash() == 0


def test_other_memory_while_the_content_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread gives the tensor new memory between the look at its address and the reading."""
    weight = nn.Parameter(torch.randn(2048, 1024), requires_grad=False)
    want = content(weight)

    class Late(Places):
        def __init__(self, places: Sequence[fingerprint.Place]) -> None:
            writer = threading.Thread(target=lambda: setattr(weight, "data", torch.zeros(8, 8)))
            writer.start()
            writer.join()
            super().__init__(places)

    monkeypatch.setattr(fingerprint, "Places", Late)
    assert content(weight) == want
    assert weight.shape == (8, 8)
