"""These tests need the extra `onnx`, which `make test` installs."""

from lowbit_compiler.errors import MissingPackageError

try:
    from helpers.onnx_files import one_library  # noqa: F401
except MissingPackageError:
    collect_ignore_glob = ["test_*.py"]
