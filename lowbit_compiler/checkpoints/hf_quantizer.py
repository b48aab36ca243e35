"""transformers' own way to low-bit models: ``from_pretrained(folder, quantization_config=lowbit.LowbitConfig("int8"))``, and back.

Files and tensors are those of ``lowbit.save_pretrained`` and ``lowbit.load``. Importing this file registers the quantizer (transformers 5);
``import lowbit_compiler`` does that as soon as transformers is imported (hf_hook.py). tests/checkpoints/test_transformers.py holds what it relies on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.checkpoints import choice
from lowbit_compiler.checkpoints.formats import lowbit
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.checkpoints.save import RECIPE
from lowbit_compiler.checkpoints.scheme import WEIGHT, Scheme
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.recipes import DEFAULT, Recipe, find_recipe

try:
    from transformers.core_model_loading import ConversionOps
    from transformers.quantizers.auto import register_quantization_config, register_quantizer
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin
except ImportError as error:
    raise ImportError(f"lowbit_compiler.LowbitConfig needs transformers 5 or newer (pip install 'transformers>=5'): {error}") from error


@register_quantization_config(lowbit.METHOD)
class LowbitConfig(QuantizationConfigMixin):
    """What ``from_pretrained`` quantizes a float checkpoint to: ``recipe``, a name, FILE.toml or a Recipe; ``ignore`` names linears that stay float.

    The other arguments are what saved models say of themselves. Raises OptionError for a recipe that is none.
    """

    def __init__(
        self,
        recipe: str | Recipe | Mapping[str, Any] | None = DEFAULT,
        ignore: Sequence[str] = (),
        *,
        modules_to_not_convert: Sequence[str] | None = None,
        schemes: list[Any] | None = None,
        **more: Any,
    ) -> None:
        self.quant_method = lowbit.METHOD  # type: ignore[assignment]
        self.version = more.get("version", lowbit.VERSION)
        self.recipe: dict[str, Any] | None
        self.ignore = [*ignore, *(modules_to_not_convert or ())]
        self.schemes = schemes
        if recipe is None or isinstance(recipe, Mapping):  # as saved models have it
            self.recipe = None if recipe is None else dict(recipe)
        else:
            self.recipe = asdict(find_recipe(recipe))
        if shared := more.get("shared"):
            self.shared = shared


class _Quantize(ConversionOps):
    """Makes the tensors of one linear of its float weight."""

    def __init__(self, schemes: Mapping[str, Scheme]) -> None:
        self._schemes = schemes

    def convert(self, input_dict: dict[str, Any], *_: Any, **given: Any) -> dict[str, Any]:
        """Return the tensors of the weight ``full_layer_name``."""
        value = next(iter(input_dict.values()))
        weight: Tensor = value[0] if isinstance(value, list) else value
        name = str(given["full_layer_name"]).rpartition(".")[0]
        scheme = self._schemes[name]
        with torch.no_grad():
            n, k = weight.shape
            made = scheme.quantize(n, k, lambda start, stop: weight[start:stop])
        return {f"{name}.{key}": tensor for key, tensor in made.items()}


@register_quantizer(lowbit.METHOD)
class LowbitQuantizer(HfQuantizer):
    """Puts ``StoredLinear`` in the place of the linears, and quantizes their weights as they are loaded where the files are float."""

    requires_calibration = False

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.schemes: dict[str, Scheme] = {}

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        config: Any = self.quantization_config
        if self.pre_quantized:
            self.schemes = lowbit.schemes_of(config.to_dict())
        else:
            recipe = lowbit.recipe_of(config.to_dict()) or find_recipe(DEFAULT)
            tied = {name for pair in model.all_tied_weights_keys.items() for name in pair}  # they are tied once they are loaded
            self.schemes = {name: one.scheme for one in choice.choose(model, recipe, config.ignore, tied) for name in one.names}
            config.schemes = lowbit.config(self.schemes, recipe)["schemes"]
        linears = {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, nn.Linear)}
        made: dict[nn.Module, StoredLinear] = {}
        for name, scheme in self.schemes.items():
            if name not in linears:
                raise CheckpointError(f"{name!r} is a low-bit linear of the checkpoint, and no nn.Linear of {type(model).__name__}")
            linear = linears[name]
            made[linear] = made.get(linear) or StoredLinear.like(linear, scheme)
            model.set_submodule(name, made[linear])

    def update_parallel_plan(self, model: Any, plan: dict[str, str]) -> None:
        """Add to ``plan`` how the tensors of the linears are cut; raises what :func:`hf_parallel.cut` does."""
        distributed = getattr(model.config, "distributed_config", None)
        if distributed is not None and distributed.tp_size > 1:
            from lowbit_compiler.checkpoints import hf_parallel

            hf_parallel.cut(model, plan, distributed.tp_size, self.pre_quantized)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        for module in model.modules():
            if isinstance(module, StoredLinear):
                module.requires_grad_(False)
        recipe = lowbit.recipe_of(self.quantization_config.to_dict())
        if recipe is not None:
            vars(model)[RECIPE] = recipe
        return model

    def param_needs_quantization(self, model: Any, param_name: str, **given: Any) -> bool:
        """Return whether a tensor of the files is quantized as it is loaded."""
        owner, _, leaf = param_name.rpartition(".")
        return not self.pre_quantized and leaf == WEIGHT and owner in self.schemes

    def get_quantize_ops(self) -> Any:
        """Return what quantizes it."""
        return _Quantize(self.schemes)

    def is_serializable(self) -> bool:
        """Return that ``save_pretrained`` of the model writes files that ``from_pretrained`` and ``lowbit.load`` read."""
        return True

    @property
    def is_trainable(self) -> bool:
        """The weights have no gradients."""
        return False

    @property
    def is_compileable(self) -> bool:
        """It is what the models are for."""
        return True
