"""The files with int8 activations beside the same program in PyTorch: as it is, and with ONNX Runtime's code wherever a value lies between two.

python bench/onnx/roundings.py [--only int8]      files made by bench/onnx/smollm2.py make

Prints, and adds to bench/results/onnx_smollm2.json: the largest difference of the logits at sizes that were never traced, against the
largest logit; the perplexity of the file and of PyTorch both ways; the change with its standard error over the tokens.
"""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import smollm2
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from lowbit_compiler.demo import model, text
from lowbit_compiler.exits.onnx.build import Request, build
from lowbit_compiler.exits.onnx.export import request_of
from lowbit_compiler.exits.onnx.replay import Inside

RECIPES = ("int8", "llm-int8", "int8-vector")
SIZES = ((1, 1), (1, 33), (3, 17), (2, 70))
WINDOW = smollm2.WINDOW
OWN, EQUAL = "PyTorch", "PyTorch, equal roundings"


class Pair:
    """A file and its program."""

    def __init__(self, path: Path, request: Request) -> None:
        built = build(request, lambda stage: None)
        self._request, self._inside = request, Inside(path, built, decisions=True)

    def logits(self, ids: Tensor) -> dict[str, Tensor]:
        """Return the logits of the file (under ""), of the program, and of the program with the file's roundings."""
        request = replace(self._request, kwargs={"input_ids": ids})
        (file,), theirs = self._inside.values(request)
        (equal,) = self._inside.followed(request, theirs)
        (own,) = self._inside.followed(request, {})
        return {"": file, EQUAL: equal, OWN: own}


def largest_gap(got: Tensor, want: Tensor) -> float:
    """Return the largest difference against the largest value."""
    return float((got.double() - want.double()).abs().max() / want.abs().max())


def losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the negative log likelihood of each token but the first, float64."""
    return torch.nn.functional.cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="none")


def measure(pair: Pair, ids: dict[str, Tensor], progress: Any) -> dict[str, Any]:
    """Return the row of one file."""
    row: dict[str, Any] = {"logits": {}, "perplexity": {}, "change": {}}
    for batch, length in SIZES:
        piece = ids["english"][0, : batch * length].reshape(batch, length)
        results = pair.logits(piece)
        row["logits"][f"{batch}x{length}"] = {name: largest_gap(results[""], results[name]) for name in (OWN, EQUAL)}
    for source, tokens in ids.items():
        found: dict[str, list[Tensor]] = {"": [], OWN: [], EQUAL: []}
        for piece in tokens.split(WINDOW, 1):
            for name, logits in pair.logits(piece.contiguous()).items():
                found[name].append(losses(logits, piece))
            progress()
        means = {name: torch.cat(parts) for name, parts in found.items()}
        row["perplexity"][source] = {name: math.exp(values.mean()) for name, values in means.items()}
        gaps = {name: means[""] - means[name] for name in (OWN, EQUAL)}
        row["change"][source] = {name: [math.expm1(gap.mean()), float(gap.std() / len(gap) ** 0.5)] for name, gap in gaps.items()}
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=smollm2.FOLDER)
    parser.add_argument("--only", action="append", default=[], choices=RECIPES)
    parser.add_argument("--tokens", type=int, default=text.TOKENS)
    args = parser.parse_args()
    if args.tokens < WINDOW:
        parser.error(f"--tokens takes a number from {WINDOW} on, got {args.tokens}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    loaded = model.load(torch.float32, console)
    ids = {name: text.token_ids(loaded.tokenizer, name, args.tokens // WINDOW * WINDOW) for name in text.TEXTS}
    printed = Table(title="the file against the same program in PyTorch", title_justify="left")
    for name in ("", "roundings", "logits, largest", *(f"{source}: file / PyTorch, change" for source in text.TEXTS)):
        printed.add_column(name)
    with Progress(console=console) as progress:
        names = args.only or RECIPES
        task = progress.add_task("", total=len(names) * sum(piece.shape[1] // WINDOW for piece in ids.values()))
        for name in names:
            request = request_of(smollm2.Logits(loaded.model).eval(), smollm2.EXAMPLE, name, smollm2.SHAPES, 21, "integer", {})
            row = measure(Pair(smollm2.path_of(args.folder, name), request), ids, lambda: progress.advance(task))
            smollm2.add("roundings", {name: row}, tokens=args.tokens)
            for way in (OWN, EQUAL):
                cells = []
                for source in text.TEXTS:
                    found, (change, error) = row["perplexity"][source], row["change"][source][way]
                    cells.append(f"{found['']:.3f} / {found[way]:.3f}, {change:+.4%} ± {error:.4%}")
                printed.add_row(name, way, f"{max(sizes[way] for sizes in row['logits'].values()):.1e}", *cells)
    console.print(printed)


if __name__ == "__main__":
    main()
