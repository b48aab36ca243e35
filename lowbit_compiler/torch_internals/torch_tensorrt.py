"""torch_tensorrt as what runs the rest of a graph on CUDA. No GPU has run it (docs/tensorrt.md): a canary reads its source."""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

PACKAGE = "torch_tensorrt"
TENSORRT = "tensorrt"
"""What it calls its library: TensorRT, or TensorRT-RTX in its package for that."""
FOLDING = "dynamo.lowering.passes.constant_folding"
FOLDER, KEPT = "_TorchTensorRTConstantFolder", "quantization_ops"
"""Its class that computes what depends on constants, and the set of ops that it leaves alone."""
REGISTERING, REGISTER = "dynamo.conversion", "dynamo_tensorrt_converter"
"""Where converters of ops are registered, and by what."""
Layers = Callable[[Any, Any, list[Any], str, tuple[Any, ...]], Any]
"""Called with the module of TensorRT, a network, a list that keeps what is put in, a name, and an op's
arguments, constants as NumPy arrays; returns its results."""
Fits = Callable[[fx.Node], bool]


def unusable() -> str:
    """Return why torch_tensorrt cannot compile here; "" where it can."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"{PACKAGE} is not installed"
    if not torch.cuda.is_available():
        return f"{PACKAGE} needs a CUDA device"
    try:
        importlib.import_module(PACKAGE)
    except Exception as error:  # its own, of no class that says more
        return f"{PACKAGE} cannot be imported: {error}"
    return ""


def compile_graph(gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
    """Return ``gm`` compiled for ``examples``: what torch_tensorrt has converters for in engines, the rest as it is.

    Float products are computed in float32 unless torch itself may take TF32. Attention becomes its products and softmax: as one operator its
    converters do not take a mask that is a constant.
    """
    options = {"disable_tf32": torch.get_float32_matmul_precision() == "highest", "decompose_attention": True}
    backend: Any = torch._dynamo.lookup_backend(PACKAGE)
    compiled: Callable[..., Any] = backend(gm, list(examples), options=options)
    return compiled


def keep_folded(ops: Iterable[Any]) -> None:
    """Let its constant folder leave results of ``ops`` alone: it would store dequantized weights as floats, four to eight times as large."""
    keep(getattr(importlib.import_module(f"{PACKAGE}.{FOLDING}"), FOLDER), ops)


def keep(folder: type, ops: Iterable[Any]) -> None:
    """Add ``ops`` to what each new ``folder`` leaves alone."""
    begin, kept = folder.__init__, frozenset(ops)  # type: ignore[misc]

    @functools.wraps(begin)
    def extended(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        getattr(self, KEPT).update(kept)

    folder.__init__ = extended  # type: ignore[misc]


def register(converters: Mapping[Any, tuple[Layers, Fits]]) -> None:
    """Register converters of ops, each with what says of a node whether it takes it; all take sizes that may change."""
    declare = getattr(importlib.import_module(f"{PACKAGE}.{REGISTERING}"), REGISTER)
    trt = importlib.import_module(TENSORRT)
    for op, (layers, fits) in converters.items():
        declare(op, capability_validator=_validator(fits), supports_dynamic_shapes=True)(_converter(trt, layers))


def _validator(fits: Fits) -> Callable[[fx.Node, Any], bool]:
    def takes(node: fx.Node, settings: Any = None) -> bool:
        return fits(node)

    return takes


def _converter(trt: Any, layers: Layers) -> Callable[..., Any]:
    def convert(context: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        with unset_fake_temporarily():  # conversion runs where what is made of tensors is fake
            arrays = tuple(each.detach().cpu().numpy() if isinstance(each, Tensor) else each for each in args)
        return layers(trt, context.net, context.cpu_weights_reference_holder, name, arrays)

    return convert
