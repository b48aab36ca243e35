"""SmolLM2-135M-Instruct as engines of TensorRT-RTX: every recipe that it takes, and float32, with their sizes. Neither GPU nor driver is needed.

python bench/tensorrt/smollm2.py make             every engine that is not in the result file yet: minutes each
python bench/tensorrt/smollm2.py table            the results as a table

Results are in bench/results/tensorrt_smollm2.json; an engine is deleted when its size is known. Nothing is run: that needs a GPU.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.export import Dim

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

import lowbit_compiler as lowbit
from lowbit_compiler.demo import model
from lowbit_compiler.errors import OptionError
from lowbit_compiler.exits.tensorrt.engine import VERSION
from lowbit_compiler.exits.tensorrt.reader import refused
from lowbit_compiler.recipes import RECIPES

RESULT = "tensorrt_smollm2.json"
FLOAT = "float32"
NAMES = (FLOAT, *RECIPES)
DEVICES = ((8, 9), (12, 0))
"""The first of them that takes a recipe is what its engine is for."""
EXAMPLE = {"input_ids": torch.ones(2, 16, dtype=torch.int64)}
SHAPES = {"input_ids": {0: Dim("batch", max=8), 1: Dim("length", max=2048)}}


def linears(loaded: nn.Module, name: str) -> int:
    """Return the bytes of the weights of all linears but the head, in the bits of the recipe ``name``."""
    found = [module for path, module in loaded.named_modules() if isinstance(module, nn.Linear) and not path.endswith("lm_head")]
    if name == FLOAT:
        return sum(4 * each.weight.numel() for each in found)
    return sum(each.out_features * RECIPES[name].plan.w.row_bytes(each.in_features) for each in found)


def build(loaded: nn.Module, name: str) -> dict[str, Any]:
    """Build the engine of a recipe; returns what is known of it."""
    recipe = RECIPES["int8" if name == FLOAT else name]
    device = next((each for each in DEVICES if not refused(recipe.plan, each)), DEVICES[-1])
    capability = ".".join(map(str, device))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.engine"
        ignore = ["re:.*"] if name == FLOAT else []
        try:
            report = lowbit.export_tensorrt(
                loaded, EXAMPLE, path, recipe=recipe, capabilities=(capability,), dynamic_shapes=SHAPES, ignore=ignore
            )
        except OptionError as error:
            return {"refused": str(error)}
        return {
            "capability": capability,
            "products": report.summary(),
            "bytes": path.stat().st_size,
            "linears": linears(loaded, name),
            "seconds": round(time.perf_counter() - start),
        }


def make(only: list[str], console: Console) -> None:
    """Build what is not known yet; each result is written at once."""
    path = common.RESULTS / RESULT
    rows = json.loads(path.read_text())["engines"] if path.exists() else {}
    loaded = common.Logits(model.load(torch.float32, console).model).eval()
    for name in only or [name for name in NAMES if name not in rows]:
        rows[name] = build(loaded, name)
        console.print(name, rows[name], markup=False)
        common.write(RESULT, {**common.about(tensorrt_rtx=VERSION), "engines": rows})


def table(console: Console) -> None:
    """Print the results."""
    rows = json.loads((common.RESULTS / RESULT).read_text())["engines"]
    printed = Table("engine", "compute capability", "MB", "of float32", "linears, MB", "the rest, MB", box=None)
    for name, row in rows.items():
        if "refused" in row:
            printed.add_row(name, "refused")
            continue
        whole, part = row["bytes"], row["linears"]
        printed.add_row(
            name,
            row["capability"],
            f"{whole / 1e6:.0f}",
            f"{whole / rows[FLOAT]['bytes']:.2f}",
            f"{part / 1e6:.0f}",
            f"{(whole - part) / 1e6:.0f}",
        )
    console.print(printed)


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("step", choices=("make", "table"))
    parser.add_argument("--only", action="append", default=[], choices=NAMES)
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    if args.step == "make":
        make(args.only, console)
    else:
        table(console)


if __name__ == "__main__":
    main()
