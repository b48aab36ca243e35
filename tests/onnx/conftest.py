"""These tests need the extra `onnx`, which `make test` installs."""

import functools
from collections.abc import Iterator

import pytest

from lowbit_compiler.errors import MissingPackageError

try:
    import lowbit_compiler.exits.onnx  # noqa: F401
except MissingPackageError:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _one_library() -> Iterator[None]:
    """torch's exporter reads source and signatures of all its translations anew at each export, a second every time; here once."""
    from torch.onnx._internal._lazy_import import onnxscript_apis
    from torch.onnx._internal.exporter import _schemas

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxscript_apis, "get_torchlib_ops", functools.cache(onnxscript_apis.get_torchlib_ops), raising=False)
        patch.setattr(_schemas, "op_signature_from_function", functools.cache(_schemas.op_signature_from_function))
        yield
