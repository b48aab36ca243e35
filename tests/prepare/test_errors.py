"""Bad arguments raise one error before anything is run, which says what is accepted."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import lowbit_compiler as lowbit
from helpers import zoo
from helpers.prepared import INT4, inputs, parts_of, stack
from lowbit_compiler.errors import OptionError, WeightFreedError
from lowbit_compiler.preparing.awq import AWQ
from lowbit_compiler.runtime.weights import free


class Never(nn.Module):
    """A model that must not be run."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = stack(1)

    def forward(self, *args: Any) -> Any:
        raise AssertionError("the model was run")


BAD = {
    "an unknown recipe": ({"recipe": "int1"}, "unknown recipe 'int1'; accepted: int8"),
    "no recipe": ({"recipe": 4}, "recipe takes the name of a recipe, FILE.toml or a Recipe, got 4"),
    "one tensor": ({"data": torch.zeros(3)}, "data takes an iterable of inputs.*got 'Tensor'"),
    "one dict": ({"data": {"x": torch.zeros(3)}}, "data takes an iterable of inputs.*got 'dict'"),
    "a number": ({"data": 5}, "data takes an iterable of inputs.*got 'int'"),
    "text": ({"data": "english"}, "data takes an iterable of inputs.*; got 'english'"),
    "nothing": ({"data": []}, "data takes an iterable of inputs.*got no inputs"),
    "inputs of no kind": ({"data": [torch.zeros(3), 5]}, "data takes an iterable of inputs.*got one that is a int"),
    "a name for a list": ({"methods": "gptq"}, "methods takes names of .*got 'gptq'"),
    "an unknown method": ({"methods": ["gptq", "magic"]}, "methods takes names of .*'gptq'.*got .*magic"),
    "a method twice": ({"methods": ["gptq", "gptq"]}, "each once"),
    "no methods": ({"methods": [3]}, "methods takes names of"),
    "two that round": ({"methods": ["gptq", "flexround"]}, "takes one of those that choose codes, got gptq, flexround"),
    "a method without data": ({"methods": [AWQ()], "data": None}, "takes nothing where data is None"),
    "floats for GPTQ": ({"recipe": "mxfp4"}, "gptq takes weights of integers .* recipe 'mxfp4' has fp4"),
    "static scales of floats": ({"methods": ["outlier_tune"]}, "outlier_tune is for quantized activations"),
    "no language model": ({"data": "self"}, "data='self' takes a language model .* got Never"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_what_is_accepted(given: dict[str, Any], message: str) -> None:
    given = {"recipe": INT4, "data": inputs(1), **given}
    model = Never().eval()
    with pytest.raises(OptionError, match=message):
        lowbit.prepare(model, **given)
    assert not parts_of(model)


def test_models() -> None:
    with pytest.raises(OptionError, match=r"model takes a torch\.nn\.Module, got function"):
        lowbit.prepare(lambda x: x, INT4)  # type: ignore[arg-type, return-value]
    with pytest.raises(OptionError, match="is in training mode"):
        lowbit.prepare(stack(1).train(), INT4)
    with pytest.raises(OptionError, match=r"ReLU has no nn\.Linear that recipe 'int4 g32' quantizes"):
        lowbit.prepare(nn.ReLU().eval(), INT4)
    model = stack(1)
    free(model.first.weight)
    with pytest.raises(WeightFreedError, match="free_weights=True released"):
        lowbit.prepare(model, INT4)


def test_own_text_of_models_without_a_cache() -> None:
    model, _ = zoo.t5()
    with pytest.raises(OptionError, match="data='self' takes a language model"):
        lowbit.prepare(model, INT4, "self")

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.config = stack(1), copy.copy(model.config)
            self.config.is_encoder_decoder = False

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return ids

    with pytest.raises(OptionError, match=r"Bare does not: .*past_key_values"):
        lowbit.prepare(Bare().eval(), INT4, "self")
