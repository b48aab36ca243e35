"""What the attention kernels change in SmolLM2-135M-Instruct: perplexity and logits, every product left in float.

python bench/accuracy/attention.py [--tokens 3072]

Each dtype against itself in eager mode, on two real texts; the model as it is (sdpa) and with attention written out (eager), which the
pass fuses first.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

import lowbit_compiler
from lowbit_compiler.demo import model, text
from lowbit_compiler.demo.perplexity import perplexity

FLOAT = {"remainder": "eager", "plan": "always", "ignore": ["re:proj", "lm_head"]}


def logits_of(net: Any, x: Tensor) -> Tensor:
    """Return the logits of one forward pass without a cache."""
    logits: Tensor = net(x, use_cache=False).logits
    return logits


def compare(net: Any, ids: dict[str, Tensor], spelling: str) -> dict[str, float]:
    """Return perplexities of the model in eager mode and compiled, and the largest difference of logits against their norm."""
    net.set_attn_implementation(spelling)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="lowbit", dynamic=False, options=FLOAT)
    row = {}
    with torch.no_grad():
        for source, tokens in ids.items():
            row[source] = perplexity(lambda x: logits_of(net, x), tokens)
            row[f"{source}, lowbit"] = perplexity(lambda x: logits_of(compiled, x), tokens)
        window = ids[source][:, :512].contiguous()
        want, got = logits_of(net, window).double(), logits_of(compiled, window).double()
    row["logits"] = float((got - want).norm() / want.norm())
    sites = [site for site in lowbit_compiler.last_report().sites if site.kind == "attention"]
    row["attentions"] = sum(site.decision == "rewritten" for site in sites)
    return row


def main() -> None:
    """Measure, print a table, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=3072)
    args = parser.parse_args()
    console, rows = Console(), {}
    table = Table(title="perplexity and logits with attention as lowbit::sdpa, against eager mode", title_justify="left")
    for name in ("", "attentions", *(f"{source} {what}" for source in text.TEXTS for what in ("eager", "change")), "logits"):
        table.add_column(name, justify="right" if name else "left")
    for dtype in ("float32", "bfloat16"):
        loaded = model.load(getattr(torch, dtype), console)
        ids = {name: text.token_ids(loaded.tokenizer, name, args.tokens) for name in text.TEXTS}
        for spelling in ("sdpa", "eager"):
            row = rows[f"{dtype}, {spelling}"] = compare(loaded.model, ids, spelling)
            changes = [c for s in text.TEXTS for c in (f"{row[s]:.3f}", f"{row[f'{s}, lowbit'] / row[s] - 1:+.4%}")]
            table.add_row(f"{dtype}, {spelling}", str(row["attentions"]), *changes, f"{row['logits']:.1e}")
    console.print(table)
    common.write("attention_accuracy.json", {"about": common.about(tokens=args.tokens), "rows": rows})


if __name__ == "__main__":
    main()
