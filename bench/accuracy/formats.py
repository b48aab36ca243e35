"""Number formats compared on SmolLM2-135M-Instruct, weights alone and with activations: perplexity and divergence against float32.

    python bench/accuracy/formats.py [--tokens 6144] [--threads 1] [--only WORD ...]

Every linear but the head goes through quantize and dequantize of the format (runtime/formats), as an emulated product does; how a row is read is in
docs/treatments.md. A run that was cut off goes on where it stopped.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from schemes import Scheme
from torch import Tensor
from treatments import WINDOW, Measure, Row, applied, table

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.demo import model, text
from lowbit_compiler.runtime.formats import Operand, operand

FORMATS = [("int8", 64), *((word, size) for word in ("int4", "int4-symmetric") for size in (32, 64, 128)), ("mxfp4", 32), ("nvfp4", 16)]
FORMATS += [("e4m3", 32), ("e4m3", 64), ("e3m4", 64), ("e2m1", 32)]
"""Words of recipes, and the size of a group where they have one to choose."""


def rounded(one: Operand, x: Tensor) -> Tensor:
    """Return what is left of ``x``."""
    return one.dequantize(one.quantize(x))


def schemes(only: list[str]) -> list[Scheme]:
    """Return each format for weights alone, and for both operands where it is defined for activations."""
    found = []
    for word, group in FORMATS:
        one = operand(word, group)
        assert one is not None
        keep = partial(rounded, one)
        name = f"{word}, groups of {group}" if one.scale.sizes and one.scale.arguments == (group,) else word
        found.append(Scheme("weights", name, None, keep))
        if one.format.activations:
            found.append(Scheme("weights and activations", f"{name}, both", keep, keep))
    return sorted((s for s in found if not only or any(word in s.name for word in only)), key=lambda scheme: scheme.group)


def main() -> None:
    """Measure, print one table and write the result file after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=text.TOKENS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=[], help="formats whose name contains one of these")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    console, path = Console(), common.RESULTS / "formats.json"
    loaded = model.load(torch.float32, console)
    ids = {name: text.token_ids(loaded.tokenizer, name, args.tokens // WINDOW * WINDOW) for name in text.TEXTS}
    about = common.about(model=model.FILE, dtype="float32", tokens=args.tokens)
    before = json.loads(path.read_text()) if path.exists() else {"about": {}, "rows": []}
    same = {**before["about"], "date": ""} == {**about, "date": ""}
    rows: list[Row] = [row for row in before["rows"] if same and row["group"]]
    measure = Measure(ids)
    with Progress(console=console, transient=True) as progress:
        fixed = measure.run(loaded.model, "", "float32", progress)
        for scheme in schemes(args.only):
            if scheme.name not in {row["scheme"] for row in rows}:
                with applied(loaded.model, scheme):
                    rows.append(measure.run(loaded.model, scheme.group, scheme.name, progress))
                common.write(path.name, {"about": about, "rows": [fixed, *sorted(rows, key=lambda row: str(row["group"]))]})
    console.print(
        table(
            [fixed, *sorted(rows, key=lambda row: str(row["group"]))], f"change against float32, percent; {args.tokens} tokens of each text"
        )
    )


if __name__ == "__main__":
    main()
