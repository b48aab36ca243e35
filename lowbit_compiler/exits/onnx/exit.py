"""The ONNX exit: products in ops that ONNX has, without a machine to plan for."""

from lowbit_compiler.exits.exit import Exit, leaves_whole
from lowbit_compiler.exits.forms import forms
from lowbit_compiler.passes.contract import Target


def onnx(form: str) -> Exit:
    """Return the exit to files of ``form``: "integer" or "qdq"."""
    return Exit(
        Target(has_kernels=False), forms(form), leaves_whole("ONNX has operators for it")
    )  # its readers fuse attention as they like
