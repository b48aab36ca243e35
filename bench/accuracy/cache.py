"""What a cache in int8 changes in SmolLM2-135M-Instruct: divergence of the next token's distribution, decoding a few tokens at a time.

python bench/accuracy/cache.py [--tokens 512] [--step 8] [--recipe int8]

The compiled model in bfloat16 with StaticCache and with Int8Cache, each against the model in float32, and against each other. KL(p, q) is the mean over
tokens of sum p log(p / q), in nats.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import StaticCache

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

import lowbit_compiler
from lowbit_compiler.demo import model, text

CACHES = {"bfloat16": StaticCache, "int8": lowbit_compiler.Int8Cache}


def decoded(net: Any, ids: Tensor, kind: Any, count: int, recipe: str) -> Tensor:
    """Return log-probabilities [tokens, vocabulary], ``count`` tokens a call; the first is not compiled, since it allocates the cache."""
    cache = kind(net.config, max_cache_len=ids.shape[1])
    options = {"recipe": recipe, "remainder": "eager", "plan": "always"}
    torch._dynamo.reset()
    step = torch.compile(lambda x: net(x, past_key_values=cache).logits, backend="lowbit", fullgraph=True, dynamic=False, options=options)
    first, *others = (piece.clone() for piece in ids.split(count, 1))
    calls = (net(first, past_key_values=cache).logits, *map(step, others))
    return torch.cat([logits[0].float().log_softmax(-1) for logits in calls])


def divergence(p: Tensor, q: Tensor) -> float:
    """Return KL(p, q) of log-probabilities."""
    return float((p.double().exp() * (p.double() - q.double())).sum(-1).mean())


def main() -> None:
    """Measure, print a table, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--step", type=int, default=8)
    parser.add_argument("--recipe", default="int8")
    args = parser.parse_args()
    console, rows = Console(), {}
    loaded = model.load(torch.bfloat16, console)
    exact = model.load(torch.float32, console).model
    table = Table(title=f"mean KL over {args.tokens} tokens, recipe {args.recipe}", title_justify="left")
    for name in ("text", "bfloat16 cache from float32", "int8 cache from float32", "int8 cache from bfloat16 cache"):
        table.add_column(name, justify="left" if name == "text" else "right")
    with torch.no_grad():
        for source in text.TEXTS:
            ids = text.token_ids(loaded.tokenizer, source, args.tokens)
            want = exact(ids, use_cache=False).logits[0].log_softmax(-1)
            got = {name: decoded(loaded.model, ids, kind, args.step, args.recipe) for name, kind in CACHES.items()}
            row = {name: divergence(want, each) for name, each in got.items()} | {"between": divergence(got["bfloat16"], got["int8"])}
            rows[source] = row
            console.print(source, row)
            table.add_row(source, *(f"{value:.5f}" for value in row.values()))
    console.print(table)
    about = common.about(tokens=args.tokens, step=args.step, recipe=args.recipe)
    console.print(f"written to {common.write('cache_accuracy.json', {'about': about, 'rows': rows})}")


if __name__ == "__main__":
    main()
