"""The ONNX exit: the same passes up to the waist, then torch's ONNX exporter with translations of our ops."""

import importlib.util

from lowbit_compiler.errors import MissingPackageError

PACKAGES = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "ml_dtypes")


def require() -> None:
    """Raise MissingPackageError where a package of the extra ``onnx`` is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"the ONNX export needs {', '.join(missing)}: pip install lowbit-compiler[onnx]")


require()
