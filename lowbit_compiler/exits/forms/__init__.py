"""The passes of exits without packed ops: how a reader of files, or what builds engines, is shown a product."""

from lowbit_compiler.exits.forms.integer import IntegerForm
from lowbit_compiler.exits.forms.qdq import QdqForm
from lowbit_compiler.passes.cleanup import Cleanup
from lowbit_compiler.passes.contract import Pass


def forms(form: str) -> list[Pass]:
    """Return the passes from the waist's QDQ form to products that are written out; ``form``: "integer" or "qdq"."""
    return [
        QdqForm() if form == "qdq" else IntegerForm(),  # how a reader is shown the product; the waist's pattern ends here
        Cleanup(),  # float weights that nothing reads must not be stored
    ]
