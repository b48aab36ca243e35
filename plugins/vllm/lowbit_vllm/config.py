"""Linears of vLLM's models as lowbit's products: weights are quantized and packed when they are loaded, and multiplied by lowbit's ops."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

from lowbit_compiler.passes.plan import MIN_K, MIN_N, matches
from lowbit_compiler.recipes import RECIPES, find_recipe, pattern_error
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.treatments.treatment import at_once

ENVIRONMENT, DEFAULT = "LOWBIT_RECIPE", "int8"
"""vLLM has no setting for a recipe where the checkpoint's own config.json names none."""
LEFT_OUT = ("ignore", "modules_to_not_convert")
"""What a checkpoint's ``quantization_config`` calls the modules that stay float."""


class LowbitLinearMethod(UnquantizedLinearMethod):  # type: ignore[misc]
    """One linear of vLLM, or this rank's part of it, as a product of ``plan``."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Replace the float weight [N, K] by its panels: int8 [panels, bytes]."""
        weight = layer.weight.detach()
        layer.lowbit_n = weight.shape[0]
        treated = self.plan.treatment.weight(at_once, weight.float())
        layer.weight = nn.Parameter(self.plan.w.pack(self.plan.w.quantize(treated)), requires_grad=False)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return [..., N] of ``x`` [..., K], in the dtype of ``x``."""
        op = getattr(torch.ops.lowbit, self.plan.op)
        given = x if self.plan.inner == self.plan else self.plan.treatment.activation(at_once, x)[0]
        product: Tensor = op(given, layer.weight, bias, layer.lowbit_n, *self.plan.arguments, x.dtype)
        return product


@register_quantization_config("lowbit")
class LowbitConfig(QuantizationConfig):  # type: ignore[misc]
    """``quantization="lowbit"``: the recipe of the checkpoint's ``quantization_config``, or of the environment's ``LOWBIT_RECIPE``.

    ``ignore`` are names of modules that stay float, or patterns after "re:", as the backend takes them.

    Raises:
        ValueError: there is no such recipe, no op for its products, or it has other words for some of them.
    """

    def __init__(self, recipe: str | None = None, ignore: Sequence[str] = ()) -> None:
        super().__init__()
        self.recipe, self.ignore = recipe or os.environ.get(ENVIRONMENT, DEFAULT), tuple(ignore)
        found = find_recipe(self.recipe)
        if found.sites:
            raise ValueError(f"recipe {self.recipe!r}: sites are not taken by vLLM's plugin, got {dict(found.sites)}; accepted: none")
        self.plan = found.plan
        if self.plan.product is None:
            has = [name for name, each in RECIPES.items() if each.plan.product is not None]
            raise ValueError(
                f"recipe {self.recipe!r}: {self.plan.name} has no op, and vLLM multiplies by ops alone; accepted: {', '.join(has)}"
            )

    @classmethod
    def get_name(cls) -> str:
        """Return what vLLM calls it."""
        return "lowbit"

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        """Return the dtypes of activations."""
        return [torch.bfloat16, torch.float32, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        """Return the oldest GPU, sm_80."""
        return 80

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Return nothing: what there is to say is in config.json."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LowbitConfig":
        """Return the config of a checkpoint's ``quantization_config``; raises ValueError for one whose weights are codes already."""
        if "schemes" in config:
            raise ValueError(
                "the checkpoint's weights are in lowbit's own format: vLLM reads lowbit.save_pretrained(..., format='compressed-tensors')"
            )
        return cls(config.get("recipe"), [name for key in LEFT_OUT for name in _names(key, config.get(key) or [])])

    def get_quant_method(self, layer: nn.Module, prefix: str) -> UnquantizedLinearMethod | None:
        """Return how ``layer`` is multiplied; None (in float) for all that is no linear, as embedding and head."""
        if not isinstance(layer, LinearBase):
            return None
        if self._ignores(prefix) or layer.input_size < MIN_K or layer.output_size < MIN_N:
            return UnquantizedLinearMethod()
        return LowbitLinearMethod(self.plan)

    def _ignores(self, prefix: str) -> bool:
        """Return whether the linear ``prefix`` stays float; raises ValueError where that is said of a part of what vLLM merges into it."""
        parent, _, own = prefix.rpartition(".")
        merged = self.packed_modules_mapping.get(own, [own])
        names = [f"{parent}.{part}".removeprefix(".") for part in merged]
        named = [name for name in names if any(matches(pattern, each) for pattern in self.ignore for each in (prefix, name))]
        if named and len(named) < len(names):
            raise ValueError(f"ignore takes all or none of {', '.join(names)}, which vLLM multiplies as {prefix}; got {', '.join(named)}")
        return bool(named)


def _names(key: str, found: Any) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"quantization_config: {key} takes a list of names of modules, got {found!r}")
    for name in found:
        if error := pattern_error(name):
            raise ValueError(f"quantization_config: {key} takes names and valid regular expressions after 're:', got {name!r}: {error}")
    return found
