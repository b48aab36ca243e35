"""The ONNX exit: products in ops that ONNX has, without a machine to plan for."""

from collections.abc import Collection

from lowbit_compiler.exits.exit import Exit, explain_emulated
from lowbit_compiler.exits.forms import forms
from lowbit_compiler.passes.contract import Fact, PassContext, Target
from lowbit_compiler.passes.site import WHOLE_KINDS, Reason


def onnx(form: str) -> Exit:
    """Return the exit to files of ``form``: "integer" or "qdq"."""
    return Exit(Target(has_kernels=False), forms(form), _conclude)  # its readers fuse attention as they like


def _conclude(ctx: PassContext, facts: Collection[Fact]) -> list[str]:
    for site in ctx.sites:
        if site.kind in WHOLE_KINDS and not site.found.constant:
            site.decline(Reason.KEPT_WHOLE, "ONNX has operators for it")
    explain_emulated(ctx, "integer form")
    return []
