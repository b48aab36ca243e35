"""The passes of the ONNX exit: how a reader of the file is shown a product."""

from lowbit_compiler.exits.onnx.forms.integer import IntegerForm
from lowbit_compiler.exits.onnx.forms.qdq import QdqForm
from lowbit_compiler.passes.cleanup import Cleanup
from lowbit_compiler.passes.contract import Pass


def onnx_exit(form: str) -> list[Pass]:
    """Return the passes from the waist's QDQ form to what the translations of the ONNX exit take; ``form``: "integer" or "qdq"."""
    return [
        QdqForm() if form == "qdq" else IntegerForm(),  # how a reader is shown the product; the waist's pattern ends here
        Cleanup(),  # float weights that nothing reads must not be stored
    ]
