"""These tests build engines; they are skipped where the extra `tensorrt` is not installed."""

import contextlib

from lowbit_compiler.errors import MissingPackageError

with contextlib.suppress(MissingPackageError):
    from helpers.onnx_files import one_library  # noqa: F401
