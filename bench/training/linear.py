"""What the parts of one linear that trains take: quantizing, panels and products; and what sampling half of the rows saves.

python bench/training/linear.py [--rounds 8]

The linear is that between hidden size and feed-forward of BERT-base: 2,048 tokens, 768 to 3,072. Written are milliseconds of the processor, one
thread, the least of rounds in which everyone has a turn. A product of one row is the panels of what it meets, and little else.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.runtime.training.backward import GRADIENT, INPUT, WEIGHT, Draw, Folded
from lowbit_compiler.runtime.training.matrix import Matrix, integer_product
from lowbit_compiler.runtime.training.plan import GRAD_INPUT, GRAD_WEIGHT
from lowbit_compiler.runtime.training.plans import plan_of
from lowbit_compiler.runtime.training.sampling import HIGH, Sampled, halves
from lowbit_compiler.runtime.treatments.treatment import at_once

M, N, K = 2048, 3072, 768
FORMATS = {"int8-training": (8, False), "int4-training": (4, True)}
SAMPLING = "int4-training-paper"
Calls = dict[str, Callable[[], object]]
L = torch.ops.lowbit


def kernels(bits: int, rotated: bool, x: Tensor, w: Tensor, dy: Tensor) -> Calls:
    """Return the calls of one step of the linear, and of its products with one row."""
    seed = torch.tensor([1])
    kept_x, kept_w = (L.train_quantize(one, bits, rotated) for one in (x, w))
    one_row = [part[:1].contiguous() for part in kept_x]

    def forward(rows: list[Tensor]) -> Tensor:
        return L.train_multiply(*rows, *kept_w, None, bits, K, torch.bfloat16)  # type: ignore[no-any-return]

    def fold(g: Tensor, kept: list[Tensor], columns: bool, dtype: torch.dtype) -> Tensor:
        return L.train_fold(g, *kept, seed, 0, columns, bits, rotated, K, dtype)  # type: ignore[no-any-return]

    return {
        "forward": lambda: forward(kept_x),
        "quantize activation": lambda: L.train_quantize(x, bits, rotated),
        "quantize weight": lambda: L.train_quantize(w, bits, rotated),
        "forward, one row": lambda: forward(one_row),
        "dX": lambda: fold(dy, kept_w, False, torch.bfloat16),
        "dX, one row": lambda: fold(dy[:1], kept_w, False, torch.bfloat16),
        "dW": lambda: fold(dy, kept_x, True, torch.float32),
        "dW, one row": lambda: fold(dy[:, :1].contiguous(), kept_x, True, torch.float32),
    }


def sampling(product: Sampled, g: Tensor, s: Matrix, draw: Draw) -> Calls:
    """Return what one backward product ``g s`` may be: of sampled halves as the recipe has it, of all halves, and of whole codes of 8 bits.

    ``g`` is [R, C] and ``s`` [C, K]; halves of dX are rows of ``g``, those of dW its columns.
    """
    of_columns = draw.product == WEIGHT
    rows, tokens, weights = product.choose(g.t() if of_columns else g, s, draw, g.new_ones(M, dtype=torch.float64))
    whole = Matrix.of(product.gradient, g * s.unit, draw.stream(GRADIENT))
    parts = list(halves(whole.codes).chunk(2))

    def products() -> list[Tensor]:
        return [integer_product(part, s.codes) for part in parts]

    def all_halves() -> Tensor:
        u = Matrix.of(product.gradient, g * s.unit, draw.stream(GRADIENT))
        high, low = (integer_product(part, s.codes) for part in halves(u.codes).chunk(2))
        return (HIGH * high + low) * u.unit

    def chosen_product() -> Tensor:
        if of_columns:
            return (rows.float() * weights.unsqueeze(1)).t() @ s.codes[tokens].float()
        return integer_product(rows, s.codes)

    return {
        "all halves": all_halves,
        "sampled halves": lambda: product.product(g, s, draw),
        "8 bits, whole": lambda: Folded(product.gradient).product(g, s, draw),
        "all halves, products alone": products,
        "sampled halves, product alone": chosen_product,
        "8 bits, product alone": lambda: integer_product(whole.codes, s.codes),
    }


def least(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the milliseconds of the processor that each call takes."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first warms up
        for name, call in calls.items():
            begin = time.process_time()
            call()
            found[name].append(time.process_time() - begin)
    return {name: round(1e3 * min(times[1:]), 2) for name, times in found.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, w, dy = torch.randn(M, K), torch.randn(N, K) / K**0.5, torch.randn(M, N) * torch.exp(torch.randn(M, 1))
    results = {recipe: least(kernels(*form, x, w, dy.bfloat16()), rounds) for recipe, form in FORMATS.items()}
    plan, seed = plan_of(SAMPLING), torch.tensor([1])
    assert plan is not None
    assert plan.forward.x is not None
    saved_x = Matrix.of(plan.forward.x, plan.forward.treatment.activation(at_once, x)[0])
    saved_w = Matrix.of(plan.forward.w, plan.forward.treatment.weight(at_once, w))
    for name, one, g, s, number in (
        (GRAD_INPUT, plan.grad_input, dy, saved_w, INPUT),
        (GRAD_WEIGHT, plan.grad_weight, dy.t().contiguous(), saved_x, WEIGHT),
    ):
        assert isinstance(one, Sampled)
        results[f"{SAMPLING} {name}"] = least(sampling(one, g, s, Draw(seed, 0, number)), rounds)
    table = Table("", "ms", "x of the first", title=f"a linear of {M} tokens, {K} to {N}")
    for title, times in results.items():
        table.add_row(title)
        first = next(iter(times.values()))
        for name, ms in times.items():
            table.add_row(f"  {name}", f"{ms:.2f}", f"{ms / first:.2f}")
    Console().print(table)
    print(common.write("training_linear.json", {**common.about(1, tokens=M, k=K, n=N, rounds=rounds), "ms of the processor": results}))


if __name__ == "__main__":
    main()
