"""The model of costs against processes here: a Llama over 2 and 4 of them by tensor, and over 2 by pipeline.

python bench/scale/check.py [--recipe int8] [--out scale_check.json]

Layers of one rank and sums over ranks are measured first, by all ranks at once as they share this machine; the step is predicted from them
and then measured.
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
from cost import Decoder, Layout, Pieces, step
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
import ranks as measured

MODEL = Decoder(hidden=1024, intermediate=4096, heads=16, kv_heads=8, layers=8, vocabulary=0, head_dim=64)
TOKENS = (1, 128)
SIZES = (2048, 16_384, 65_536, 262_144)
LIMIT = 0.2


def tensor_parallel(ranks: int) -> nn.Module:
    """Return the model over all ranks, as transformers' plan for Llama has it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(0)
    model = measured.llama(MODEL, MODEL.layers)
    columns, rows = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"),
        ("self_attn.o_proj", "mlp.down_proj"),
    )
    plan = {f"layers.*.{name}": ColwiseParallel() for name in columns} | {f"layers.*.{name}": RowwiseParallel() for name in rows}
    return parallelize_module(model, init_device_mesh("cpu", (ranks,)), plan)


def pipelined(rank: int, ranks: int, recipe: str, tokens: int, parts: int) -> float:
    """Return the seconds of ``parts`` times ``tokens`` tokens through stages that hand on what they have."""
    run = measured.compiled(measured.llama(MODEL, MODEL.layers // ranks), recipe)
    given = torch.randn(1, tokens, MODEL.hidden, dtype=torch.bfloat16)

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

    return measured.seconds(through)


def child(rank: int, ranks: int, store: str, recipe: str, out: str) -> None:
    """Measure, predict, and measure the whole."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    link = measured.link(SIZES, ranks)
    found: dict[str, Any] = {"link": {"latency": link.latency, "bandwidth": link.bandwidth}, "steps": []}
    for tokens in TOKENS:
        alone, rest = measured.layer(MODEL.shard(ranks), recipe, tokens)
        pieces = Pieces(lambda _, alone=alone: alone, lambda _, rest=rest: rest)
        run = measured.compiled(tensor_parallel(ranks), recipe)
        x = torch.randn(1, tokens, MODEL.hidden, dtype=torch.bfloat16)
        predicted = step(MODEL, Layout(tensor=ranks), pieces, link, tokens)
        found["steps"].append({"by": "tensor", "tokens": tokens, "predicted": predicted, "measured": measured.seconds(partial(run, x))})
    if ranks == 2:
        whole, rest = measured.layer(MODEL, recipe, TOKENS[-1])
        pieces = Pieces(lambda _: whole, lambda _: rest)
        parts = 4
        predicted = step(MODEL, Layout(pipeline=ranks), pieces, link, parts * TOKENS[-1], parts)
        found["steps"].append(
            {
                "by": "pipeline",
                "tokens": parts * TOKENS[-1],
                "predicted": predicted,
                "measured": pipelined(rank, ranks, recipe, TOKENS[-1], parts),
            }
        )
    if rank == 0:
        torch.save(found, out)
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
        for one in found["steps"]:
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
