"""These tests need the extra `onnx`, which `make test` installs."""

import functools
import importlib.util
from collections.abc import Iterator

import pytest

NEEDED = ("onnx", "onnxscript", "onnxruntime")
collect_ignore_glob = [] if all(importlib.util.find_spec(name) for name in NEEDED) else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _one_library() -> Iterator[None]:
    """torch's exporter reads the source of all its translations anew at each export, a second every time; here once."""
    from torch.onnx._internal._lazy_import import onnxscript_apis

    read = onnxscript_apis.get_torchlib_ops
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxscript_apis, "get_torchlib_ops", functools.cache(read), raising=False)
        yield
