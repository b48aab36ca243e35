"""lowbit: compile PyTorch models to low precision with ``torch.compile(model, backend="lowbit")``."""

from typing import TYPE_CHECKING, Any

from lowbit_compiler import hf_hook

if TYPE_CHECKING:
    from lowbit_compiler.bitnet import from_bitnet as from_bitnet
    from lowbit_compiler.checkpoints.hf_quantizer import LowbitConfig as LowbitConfig
    from lowbit_compiler.checkpoints.load import load
    from lowbit_compiler.checkpoints.save import save_pretrained
    from lowbit_compiler.compile.explaining import explain
    from lowbit_compiler.compile.history import last_report
    from lowbit_compiler.compile.switching import switch_bits
    from lowbit_compiler.exits.onnx.export import export_onnx as export_onnx
    from lowbit_compiler.exits.onnx.export import verify_onnx as verify_onnx
    from lowbit_compiler.exits.package import export_package
    from lowbit_compiler.exits.tensorrt.export import export_tensorrt as export_tensorrt
    from lowbit_compiler.gathering import gather_packed
    from lowbit_compiler.int8_cache import Int8Cache as Int8Cache
    from lowbit_compiler.preparing.prepare import prepare
    from lowbit_compiler.preparing.training import prepare_training
    from lowbit_compiler.recipes import RECIPES, Recipe
    from lowbit_compiler.report import Report
    from lowbit_compiler.training.half import half_fine_tuning
    from lowbit_compiler.training.projections import project

__all__ = [
    "RECIPES",
    "Recipe",
    "Report",
    "explain",
    "export_package",
    "gather_packed",
    "half_fine_tuning",
    "last_report",
    "load",
    "prepare",
    "prepare_training",
    "project",
    "save_pretrained",
    "switch_bits",
]  # export_onnx and verify_onnx need the extra "onnx", export_tensorrt "tensorrt", Int8Cache, LowbitConfig and from_bitnet transformers

_HOMES = {
    "Int8Cache": "int8_cache",
    "LowbitConfig": "checkpoints.hf_quantizer",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "Report": "report",
    "explain": "compile.explaining",
    "export_onnx": "exits.onnx.export",
    "export_package": "exits.package",
    "export_tensorrt": "exits.tensorrt.export",
    "from_bitnet": "bitnet",
    "gather_packed": "gathering",
    "half_fine_tuning": "training.half",
    "last_report": "compile.history",
    "load": "checkpoints.load",
    "prepare": "preparing.prepare",
    "prepare_training": "preparing.training",
    "project": "training.projections",
    "save_pretrained": "checkpoints.save",
    "switch_bits": "compile.switching",
    "verify_onnx": "exits.onnx.export",
}


def __getattr__(name: str) -> Any:
    # Lazy: the command line must not pay for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'lowbit_compiler' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"lowbit_compiler.{_HOMES[name]}"), name)


hf_hook.install()
