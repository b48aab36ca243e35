"""third_party/torch is what tools/vendor_torch.py makes of the torch that it names."""

import importlib.metadata
from pathlib import Path

import pytest

TORCH = Path(__file__).resolve().parents[2] / "third_party" / "torch"
HEADERS = sorted((TORCH / "include").rglob("*.h"))
VERSION = (TORCH / "VERSION").read_text().strip()


def test_there_are_headers_and_their_licence() -> None:
    assert any(path.name == "library.h" for path in HEADERS)
    assert "PyTorch" in (TORCH / "LICENSE").read_text()


@pytest.mark.skipif(importlib.metadata.version("torch").partition("+")[0] != VERSION, reason=f"another torch than {VERSION} is installed")
def test_headers_are_those_of_torch() -> None:
    include = Path(str(importlib.metadata.distribution("torch").locate_file("torch/include")))
    for path in HEADERS:
        assert path.read_bytes() == (include / path.relative_to(TORCH / "include")).read_bytes(), path.name
