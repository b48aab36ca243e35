"""The TensorRT exit: the QDQ form of the ONNX exit, built into an engine by TensorRT-RTX, without a GPU."""

import importlib.util

from lowbit_compiler.errors import MissingPackageError

PACKAGES = {"tensorrt_rtx_bindings": "tensorrt-rtx-cu13-bindings", "tensorrt_rtx_libs": "tensorrt-rtx-cu13-libs"}
"""Module -> its package."""


def require() -> None:
    """Raise MissingPackageError where a package of the extra ``tensorrt`` is not installed."""
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingPackageError(f"the TensorRT export needs {', '.join(missing)}: pip install lowbit-compiler[tensorrt]")


require()
