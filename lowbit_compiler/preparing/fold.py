"""Scales of input channels moved into what produces them: a norm, or the rows of a linear before a product; the block computes the same.

Whether a fold is exact is found out and not looked up: with scales of powers of two every product is the same number, so the block's output
does not change by a bit. Where it does, something else reads the channels (a residual sum), or an activation function is in between.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.chain import carried
from lowbit_compiler.preparing.hessian import Inputs

PROBE = 1e-5
"""Change of a block's output over its largest element that sums in another order may make."""


@dataclass(frozen=True)
class Producer:
    """A module of ``block`` whose ``weight`` [K] or [K, ...] and ``bias`` [K] are linear in the channels that ``inputs`` read."""

    block: Block
    inputs: Inputs
    name: str

    @property
    def module(self) -> Any:
        """The module."""
        return self.block.module.get_submodule(self.name)

    @property
    def shifts(self) -> bool:
        """Whether a constant can be taken off the channels: the producer and every reader have a bias."""
        readers = (layer.module for layer in self.inputs.layers)
        norm = self.module.weight.dim() == 1
        return norm and all(getattr(module, "bias", None) is not None for module in (self.module, *readers))

    def fold(self, scale: Tensor, shift: Tensor | None = None) -> None:
        """Let the channels be (x - shift) / scale from now on, and the readers multiply by scale and add what shift made."""
        module, weight = self.module, self.module.weight
        column = scale.reshape(-1, *[1] * (weight.dim() - 1))
        self.block.replace(f"{self.name}.weight", weight.float() / column)
        if getattr(module, "bias", None) is not None:
            bias = module.bias.float() - (0.0 if shift is None else shift)
            self.block.replace(f"{self.name}.bias", bias / scale)
        for layer in self.inputs.layers:
            reader, name = layer.module, self.block.name_of(layer.module)
            if shift is not None:
                self.block.replace(f"{name}.bias", reader.bias.float() + reader.weight.float() @ shift)
            self.block.replace(f"{name}.weight", reader.weight.float() * scale)


def producers(block: Block, method: str) -> Iterator[Producer]:
    """Yield what the channels of each input of ``block`` can be scaled in; of the others ``method`` says that they are left."""
    for inputs in list(block.inputs()):
        if (producer := producer_of(block, inputs)) is not None:
            yield producer
        else:
            block.say(f"{method}: nothing before {inputs.layers[0].name} takes its scales exactly; left as it is")


def producer_of(block: Block, inputs: Inputs) -> Producer | None:
    """Return what the channels of ``inputs`` can be scaled in, exactly; None where nothing was found."""
    k = inputs.layers[0].module.in_features
    for name in _candidates(block, inputs, k):
        found = Producer(block, inputs, name)
        if _exact(block, found, k):
            return found
    return None


def _candidates(block: Block, inputs: Inputs, k: int) -> list[str]:
    """Return modules with a weight of ``k`` rows: that whose output is the input, else linears that ran before, the latest first."""
    ran: list[tuple[str, Any]] = []
    read: list[tuple[int, Any]] = []

    def after(module: nn.Module, args: Any, output: Any, name: str) -> None:
        ran.append((name, output))

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        read.append((len(ran), args[0] if args else kwargs["input"]))

    hooks = [inputs.layers[0].module.register_forward_pre_hook(before, with_kwargs=True)]
    for name, module in block.module.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.shape[:1] == (k,) and module not in {layer.module for layer in inputs.layers}:
            hooks.append(module.register_forward_hook(lambda module, args, output, name=name: after(module, args, output, name)))
    try:
        _first(block)
    finally:
        for hook in hooks:
            hook.remove()
    if not read:
        return []
    count, x = read[0]
    same = [name for name, output in ran[:count] if output is x]
    linear = [name for name, _ in reversed(ran[:count]) if isinstance(block.module.get_submodule(name), nn.Linear)]
    return same or list(dict.fromkeys(linear))


def _exact(block: Block, producer: Producer, k: int) -> bool:
    weight = producer.module.weight
    generator = torch.Generator().manual_seed(0)
    powers = torch.randint(-2, 3, (k,), generator=generator).float().exp2().to(weight.device)
    want = _first(block)
    with _restored(block):
        producer.fold(powers)
        got = _first(block)
    return bool((got - want).abs().max() <= PROBE * want.abs().max())


def _first(block: Block) -> Tensor:
    for args, kwargs in block.calls():
        return carried(block.module(*args, **kwargs)).float()  # type: ignore[no-any-return]
    raise AssertionError("a block whose linears have inputs was called")


@contextlib.contextmanager
def _restored(block: Block) -> Iterator[None]:
    """Take back what is written to the block's parameters meanwhile."""
    before = {name: parameter.detach().clone() for name, parameter in block.module.named_parameters()}
    changed, known = dict(block.changed), block.known
    try:
        yield
    finally:
        for name, value in before.items():
            parameter = block.module.get_parameter(name)
            if not torch.equal(parameter, value):
                parameter.copy_(value)
        block.changed, block.known = changed, known
