"""Models of transformers' BitNet integration (BitNet b1.58, arXiv 2402.17764) as models of plain linears, whose weights the ternary recipes find again.

The only file that touches transformers.integrations.bitnet (5.x); tests/e2e/test_ternary.py holds what it relies on.
"""

from typing import Any

import torch
from torch import Tensor, nn

try:
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear
except ImportError as error:
    raise ImportError(f"lowbit_compiler.from_bitnet needs transformers 5 or newer (pip install 'transformers>=5'): {error}") from error

PLACES = 4  # codes of a byte


def from_bitnet(model: nn.Module) -> nn.Module:
    """Return ``model`` with each of its BitNet layers as an ``nn.Linear``, behind its norm where it has one; the others stay as they are.

    Weights are code times scale, rounded once to the dtype of the layer. These layers quantize activations to int8, a token at a time, as the
    recipe ``ternary`` does; the linears themselves multiply floats.

    Raises:
        ValueError: there is no such layer, or a packed weight has a code that is none of 0, 1 and 2.
    """
    found = [
        (name, module) for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, (BitLinear, AutoBitLinear))
    ]
    if not found:
        raise ValueError(f"from_bitnet takes a model with BitNet layers of transformers, got {type(model).__name__} without one")
    plain: dict[nn.Module, nn.Module] = {}  # a layer may have several places
    for name, module in found:
        if module not in plain:
            plain[module] = _plain(name, module)
        if name == "":
            return plain[module]
        model.set_submodule(name, plain[module])
    return model


def unpack(packed: Tensor) -> Tensor:
    """Return the int8 codes -1, 0 and 1 [4 N, K] of ``packed`` uint8 [N, K]: row i of them is in the two lowest bits, row N + i in the next."""
    return torch.cat([packed >> 2 * place & 3 for place in range(PLACES)]).to(torch.int8) - 1


def _plain(name: str, module: Any) -> nn.Module:
    packed = isinstance(module, BitLinear)
    weight, bias = _packed(name, module) if packed else _floats(module)
    dtype = (module.dtype if packed else module.weight.dtype) or torch.float32
    with torch.device("meta"):
        linear = nn.Linear(module.in_features, module.out_features, bias=bias is not None)
    linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    return linear if module.rms_norm is None else nn.Sequential(module.rms_norm, linear)


def _packed(name: str, module: Any) -> tuple[Tensor, Tensor | None]:
    codes = unpack(module.weight)
    if codes.numel() and int(codes.max()) > 1:
        raise ValueError(f"from_bitnet takes packed weights of the codes 0, 1 and 2, got 3 in {name or type(module).__name__}")
    return codes / module.weight_scale.float(), module.bias  # the scale is what it divides its results by, before the bias


def _floats(module: Any) -> tuple[Tensor, Tensor | None]:
    weight, bias = module.weight.detach().float(), module.bias
    if not module.online_quant:
        scale = module.weight_scale.float()  # of its results, bias and all
        return weight * scale, None if bias is None else bias.float() * scale
    scale = 1.0 / weight.abs().mean().clamp(min=1e-5)
    return (weight * scale).round().clamp(-1, 1) / scale, bias
