"""The model of costs against processes here: a Llama over 2 and 4 of them by tensor, and over 2 by pipeline.

python bench/scale/check.py [--recipe int8] [--out scale_check.json]

Layers of one rank, sums over ranks, and the step that is predicted from them are measured by turns, by all ranks at once as they share this
machine.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cost import Decoder, Layout, step
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
import ranks as measured

MODEL = Decoder(hidden=1024, intermediate=4096, heads=16, kv_heads=8, layers=6, vocabulary=0, head_dim=64)
TOKENS = (1, 128)
SIZES = (2048, 16_384, 65_536, 262_144)
LIMIT = 0.2
COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
ROWS = ("self_attn.o_proj", "mlp.down_proj")


def parallel(model: nn.Module, mesh: Any) -> nn.Module:
    """Return the decoder cut over ``mesh``, as transformers' plan for Llama has it."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {f"layers.*.{name}": ColwiseParallel() for name in COLUMNS} | {f"layers.*.{name}": RowwiseParallel() for name in ROWS}
    return parallelize_module(model, mesh, plan)


def by_tensor(ranks: int, recipe: str, tokens: int, mesh: Any) -> dict[str, Any]:
    """Predict and measure a step of all ranks, each of which has a part of every layer.

    What is measured of one rank's layers has DTensors as well, of a mesh that is this rank alone: their Python is a part of the step.
    """
    torch.compiler.reset()
    x = torch.randn(1, tokens, MODEL.hidden, dtype=torch.bfloat16)
    calls = measured.layers(lambda depth: parallel(measured.llama(MODEL.shard(ranks), depth), mesh["own"]), recipe, x)
    half = measured.half_a_layer(MODEL.shard(ranks), recipe, x)
    whole = measured.compiled(parallel(measured.llama(MODEL, MODEL.layers), mesh["all"]), recipe)
    found = measured.seconds({**calls, **measured.sums(SIZES, half), "step": partial(whole, x)})
    link = measured.link(found, SIZES, ranks)
    predicted = step(MODEL, Layout(tensor=ranks), measured.parted(found), link, tokens)
    return {"by": "tensor", "tokens": tokens, "predicted": predicted, "measured": found["step"], "parts": found, "link": vars(link)}


def by_pipeline(rank: int, ranks: int, recipe: str, tokens: int, parts: int) -> dict[str, Any]:
    """Predict and measure ``parts`` times ``tokens`` tokens through stages that hand on what they have."""
    torch.compiler.reset()
    given = torch.randn(1, tokens, MODEL.hidden, dtype=torch.bfloat16)
    run = measured.compiled(measured.llama(MODEL, MODEL.layers // ranks), recipe)

    def through() -> None:
        sent = []
        for _ in range(parts):
            x = torch.empty_like(given) if rank else given
            if rank:
                dist.recv(x, rank - 1)
            y = run(x).contiguous()
            if rank + 1 < ranks:
                sent.append((dist.isend(y, rank + 1), y))
        for work, _ in sent:
            work.wait()

    calls = measured.layers(partial(measured.llama, MODEL), recipe, given)
    half = measured.half_a_layer(MODEL, recipe, given)
    found = measured.seconds({**calls, **measured.sums(SIZES, half), "step": through})
    link = measured.link(found, SIZES, ranks)
    predicted = step(MODEL, Layout(pipeline=ranks), measured.parted(found), link, parts * tokens, parts)
    return {
        "by": "pipeline",
        "tokens": parts * tokens,
        "predicted": predicted,
        "measured": found["step"],
        "parts": found,
        "link": vars(link),
    }


def child(rank: int, ranks: int, store: str, recipe: str, out: str) -> None:
    """Measure pieces and steps by turns, and predict."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (ranks, 1), mesh_dim_names=("all", "own"))
    steps = [by_tensor(ranks, recipe, tokens, mesh) for tokens in TOKENS]
    if ranks == 2:
        steps.append(by_pipeline(rank, ranks, recipe, TOKENS[-1], parts=4))
    if rank == 0:
        torch.save(steps, out)
    dist.destroy_process_group()


def main() -> None:
    """Run 2 and 4 processes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--out", default="scale_check.json")
    args = parser.parse_args()
    results: dict[str, Any] = {**common.about(1), "recipe": args.recipe, "model": vars(MODEL), "ranks": {}}
    table = Table(title=f"seconds of a step, {args.recipe}, one thread a process")
    for column in ("processes", "by", "tokens", "predicted ms", "measured ms", "error"):
        table.add_column(column, justify="left" if column == "by" else "right")
    for ranks in (2, 4):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(child, (ranks, f"{folder}/store", args.recipe, f"{folder}/out"), ranks)
            found = torch.load(f"{folder}/out")
        results["ranks"][ranks] = found
        for one in found:
            error = one["predicted"] / one["measured"] - 1
            style = "red" if abs(error) > LIMIT else ""
            row = (
                str(ranks),
                one["by"],
                str(one["tokens"]),
                f"{1e3 * one['predicted']:.2f}",
                f"{1e3 * one['measured']:.2f}",
                f"{100 * error:+.1f} %",
            )
            table.add_row(*row, style=style)
    Console(width=100).print(table)
    print(common.write(args.out, results))


if __name__ == "__main__":
    main()
