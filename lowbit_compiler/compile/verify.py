"""LOWBIT_VERIFY=each: run the graph after every pass up to fold on the real inputs, and compare with the graph as captured."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.errors import PassError
from lowbit_compiler.passes.calls import hint
from lowbit_compiler.passes.contract import Pass
from lowbit_compiler.passes.runner import PassRun
from lowbit_compiler.torch_internals.trees import tree_leaves, tree_map_only

SAME_SQNR = 20.0  # dB; what a float model computes in another order has more, in a deep bfloat16 model some 30 dB


class Verifier:
    """Observer of the runner that interprets the graph: exact passes may change values by float rounding only."""

    def __init__(self, gm: fx.GraphModule, examples: Sequence[Any], least: float) -> None:
        """``least`` is the SQNR in dB that passes which quantize must leave."""
        self._least = least
        self._inputs = inputs_of(gm, examples)
        self._exact = self._run(gm)
        self._expected = self._exact

    def observe(self, p: Pass, run: PassRun, gm: fx.GraphModule) -> None:
        """Compare after pass ``p``; raises PassError where the outputs differ by more than the pass may change."""
        if run.rewrites == 0 or any(node.op == "placeholder" and node.name not in self._inputs for node in gm.graph.nodes):
            return  # folded weights: the values come from constants, which the executable computes
        outputs = self._run(gm)
        for index, (got, want) in enumerate(zip(tree_leaves(outputs), tree_leaves(self._expected), strict=True)):
            if isinstance(want, Tensor) and want.is_floating_point():
                ratio = sqnr(got, want)
                floor = _rounding_floor(want.dtype) if p.exact else self._least
                if not ratio >= floor:  # also NaN, where the graph before had a number
                    raise PassError(f"pass {p.name}: output {index} has {ratio:.1f} dB SQNR to the graph before; expected {floor:.1f} dB")
        self._expected = outputs

    def _run(self, gm: fx.GraphModule) -> Any:
        return interpret(fx.Interpreter(fx.GraphModule(gm, gm.graph)), self._inputs)


def inputs_of(gm: fx.GraphModule, examples: Sequence[Any]) -> dict[str, Any]:
    """Return what a graph as captured is called with, by the names of its placeholders; symbolic sizes become numbers."""
    values = [hint(example) if isinstance(example, torch.SymInt) else example for example in examples]
    return dict(zip([node.name for node in gm.graph.find_nodes(op="placeholder")], values, strict=True))


def interpret(interpreter: fx.Interpreter, inputs: Mapping[str, Any]) -> Any:
    """Run a graph on copies of ``inputs`` and with the same random numbers every time: runs that differ have different graphs."""
    given = [inputs[node.name] for node in interpreter.graph.find_nodes(op="placeholder")]
    with torch.no_grad(), same_random_numbers():
        return interpreter.run(*tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), given))


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """Draw the same numbers in every such block, and leave the state of the generators as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield


def _rounding_floor(dtype: torch.dtype) -> float:
    """Return the SQNR in dB that hundreds of roundings of ``dtype`` leave: eps times 256."""
    return float(-20 * torch.log10(torch.tensor(torch.finfo(dtype).eps * 256)))


def sqnr(got: Tensor, want: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio in dB (infinite where equal), over elements that are finite in ``want``."""
    finite = torch.isfinite(want)
    error = (got.double() - want.double())[finite].square().sum()
    signal = want.double()[finite].square().sum()
    return float("inf") if error == 0 else float(10 * torch.log10(signal / error))
