"""Switching bits on SmolLM2-135M off its grid: what each width loses, beside weights rounded to that width alone, and what a switch takes.

    python bench/accuracy/switching.py [--tokens 384] [--threads 2]

The rest of the graph is eager, the head in float. The divergence is the mean Kullback-Leibler divergence of the next token's distribution from the
float model's, in nats times 100. "alone": the float weight rounded once, to codes from -(2^(l-1) - 1) to 2^(l-1) - 1 with a scale a row, times
int8 activations. A switch is timed on its thread's own clock, which does not run while others have the core.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path += [str(Path(__file__).resolve().parents[at]) + folder for at, folder in ((1, ""), (2, "/tests"))]
import common

import lowbit_compiler
from helpers import smollm2_off
from lowbit_compiler.demo import text

SWITCHES = (4, 8, 6, 4, 6, 8) * 5


def compiled(network: Any, recipe: str) -> Callable[..., Any]:
    """Return the model compiled with every product in low precision."""
    options = {"recipe": recipe, "plan": "always", "remainder": "eager"}
    return torch.compile(network, backend="lowbit", dynamic=False, options=options)  # type: ignore[no-any-return]


@contextlib.contextmanager
def alone(network: Any, bits: int) -> Iterator[None]:
    """Let the linears of the model but its head compute with weights that were rounded once, and rows in int8."""
    most = 2 ** (bits - 1) - 1
    linears = [module for name, module in network.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    for module in linears:
        scale = module.weight.abs().amax(1, keepdim=True) / most
        weight = torch.round(module.weight / scale).clamp(-most, most) * scale

        def forward(x: Tensor, weight: Tensor = weight) -> Tensor:
            q, scales = torch.ops.lowbit.quantize_s8(x)
            return nn.functional.linear(q.float() * scales, weight)

        module.forward = forward
    try:
        yield
    finally:
        for module in linears:
            del module.forward


def divergence(logits: Tensor, wanted: Tensor) -> float:
    """Return it in nats times 100."""
    found, float_ones = (torch.log_softmax(each.float(), -1) for each in (logits, wanted))
    return 100 * float((float_ones.exp() * (float_ones - found)).sum(-1).double().mean())


@torch.no_grad()
def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = smollm2_off.load(torch.float32)
    network: Any = loaded.model
    ids = text.token_ids(loaded.tokenizer, "english", args.tokens)
    wanted = network(ids, use_cache=False).logits
    run = compiled(network, "int8-switchable")
    eight = run(ids, use_cache=False).logits
    vector = compiled(network, "int8-vector")(ids, use_cache=False).logits
    result: dict[str, Any] = {"the logits of int8-vector": torch.equal(eight, vector)}
    seconds = []
    for bits in SWITCHES:
        start = time.thread_time()
        result["weights"] = lowbit_compiler.switch_bits(run, bits)
        seconds.append(time.thread_time() - start)
    result["switch, ms"] = {"median": 1e3 * statistics.median(seconds), "most": 1e3 * max(seconds)}
    for bits in (8, 6, 4):
        lowbit_compiler.switch_bits(run, bits)
        result[f"divergence x 100, {bits} bits"] = divergence(run(ids, use_cache=False).logits, wanted)
    lowbit_compiler.switch_bits(run, 8)
    result["8 bits as before"] = torch.equal(run(ids, use_cache=False).logits, eight)
    for bits in (6, 4):
        with alone(network, bits):
            result[f"divergence x 100, {bits} bits alone"] = divergence(network(ids, use_cache=False).logits, wanted)
    print(result)
    print(common.write("switching.json", {**common.about(args.threads, tokens=args.tokens), **result}))


if __name__ == "__main__":
    main()
