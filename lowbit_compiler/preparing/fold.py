"""Scales of input channels moved into what produces them: a norm, or the rows of a linear before a product; the block computes the same.

A row may make several channels, as those of a value head do that several query heads share; then these get one scale.

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
from lowbit_compiler.preparing.layer import inputs_of

PROBE = 1e-5
"""Change of a block's output over its largest element that sums in another order may make."""
OFFSETS = (0.0, 1.0)
"""What norms add to their weight."""


@dataclass(frozen=True)
class Producer:
    """A module of ``block`` whose ``weight`` [K] or [n, ...] and ``bias`` are linear in the channels that ``inputs`` read."""

    block: Block
    inputs: Inputs
    name: str
    offset: float = 0.0
    """What the module adds to its weight before it multiplies (norms of Gemma: 1)."""
    rows: Tensor | None = None
    """int64 [K]: the row of the weight that makes each channel, where several channels share one (value heads of grouped queries); None: its own."""

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

    def taken(self, scale: Tensor) -> Tensor:
        """Return the scales [K] that can be folded, for those that are wanted: of channels that share a row, their geometric mean."""
        return scale if self.rows is None else self._of_rows(scale)[self.rows]

    def _of_rows(self, scale: Tensor) -> Tensor:
        if self.rows is None:
            return scale
        n = len(self.module.weight)
        total = torch.zeros(n, device=scale.device).index_add_(0, self.rows, scale.log())
        return (total / torch.bincount(self.rows, minlength=n).clamp(min=1)).exp()

    def fold(self, scale: Tensor, shift: Tensor | None = None) -> None:
        """Let the channels be (x - shift) / scale from now on, and the readers multiply by scale and add what shift made; see :meth:`taken`."""
        module, weight = self.module, self.module.weight
        own, scale = self._of_rows(scale), self.taken(scale)
        column = own.reshape(-1, *[1] * (weight.dim() - 1))
        self.block.replace(f"{self.name}.weight", (weight.float() + self.offset) / column - self.offset)
        if getattr(module, "bias", None) is not None:
            bias = module.bias.float() - (0.0 if shift is None else shift)
            self.block.replace(f"{self.name}.bias", bias / own)
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
        for found in _ways(block, inputs, name, k):
            if _exact(block, found, k):
                return found
    return None


def _ways(block: Block, inputs: Inputs, name: str, k: int) -> Iterator[Producer]:
    """Yield the ways in which a module may make the ``k`` channels."""
    weight = block.module.get_parameter(f"{name}.weight")
    if weight.dim() == 1:
        yield from (Producer(block, inputs, name, offset) for offset in OFFSETS)
    elif len(weight) == k:
        yield Producer(block, inputs, name)
    elif (rows := _rows(block, inputs, name)) is not None:
        yield Producer(block, inputs, name, rows=rows)


def _candidates(block: Block, inputs: Inputs, k: int) -> list[str]:
    """Return modules with a weight of ``k`` rows: that whose output is the input, else linears that ran before, the latest first.

    A linear may also have fewer rows, of which each makes several channels.
    """
    ran: list[tuple[str, Any]] = []
    read: list[tuple[int, Any]] = []
    readers = {layer.module for layer in inputs.layers}

    def after(module: nn.Module, args: Any, output: Any, name: str) -> None:
        ran.append((name, output))

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        read.append((len(ran), args[0] if args else kwargs["input"]))

    hooks = [inputs.layers[0].module.register_forward_pre_hook(before, with_kwargs=True)]
    for name, module in block.module.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or module in readers:
            continue
        rows = weight.shape[0] if weight.dim() else 0
        if rows == k or (isinstance(module, nn.Linear) and rows and k % rows == 0):
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


def _rows(block: Block, inputs: Inputs, name: str) -> Tensor | None:
    """Return the row of a linear that makes each channel, int64 [K], where doubling rows doubles some channels and leaves the others.

    The rows whose number has a bit set are doubled, bit by bit: the channels that follow have that bit in their row's number.
    """
    module: Any = block.module.get_submodule(name)
    want = _read(block, inputs)
    number = torch.arange(len(module.weight), device=want.device)
    rows = torch.zeros(want.shape[-1], dtype=torch.int64, device=want.device)
    for bit in range((len(number) - 1).bit_length()):
        with _restored(block):
            double = 1.0 + (number >> bit & 1)
            for part in ("weight", "bias"):
                if (parameter := getattr(module, part, None)) is not None:
                    block.replace(f"{name}.{part}", parameter.float() * double.reshape(-1, *[1] * (parameter.dim() - 1)))
            got = _read(block, inputs)
        close = PROBE * want.abs().amax(0)
        doubled, same = ((got - factor * want).abs().amax(0) <= close for factor in (2.0, 1.0))
        if not (doubled ^ same).all():
            return None
        rows |= doubled.to(torch.int64) << bit
    return rows if int(rows.max()) < len(number) else None


def _read(block: Block, inputs: Inputs) -> Tensor:
    """Return the rows [M, K] that the readers get in the block's first call."""
    found: list[Tensor] = []
    reader = inputs.layers[0]

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append(inputs_of(reader, args[0] if args else kwargs["input"]))

    hook = reader.module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        _first(block)
    finally:
        hook.remove()
    return found[0]


def _exact(block: Block, producer: Producer, k: int) -> bool:
    weight = producer.module.weight
    generator = torch.Generator().manual_seed(0)
    powers = torch.randint(-2, 3, (len(weight),), generator=generator).float().exp2().to(weight.device)
    powers = powers if producer.rows is None else powers[producer.rows]
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
