"""SmolLM2-135M-Instruct as engines of TensorRT-RTX: every recipe that it takes, and float32, with their sizes. Neither GPU nor driver is needed.

python bench/tensorrt/smollm2.py make             every engine that is not in the result file yet: minutes each
python bench/tensorrt/smollm2.py table            the results as a table

Results are in bench/results/tensorrt_smollm2.json; an engine is deleted when its size is known. Nothing is run: that needs a GPU.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import AttributeProto, TensorProto
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

BITS = {"INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8, "FLOAT4E2M1": 4, "FLOAT8E4M3FN": 8}
"""The types of codes."""
HOLDING = {AttributeProto.TENSOR, AttributeProto.GRAPH, AttributeProto.TENSORS, AttributeProto.GRAPHS}


def held(file: Path) -> dict[str, Any]:
    """Return what the ONNX ``file`` stores: how many constants of codes and how many of them DequantizeLinear alone reads, as its codes,
    their bytes, and those of all other constants. Single numbers, such as the zero points of QuantizeLinear, are no codes.

    Raises ValueError where a node holds tensors of its own, which would not be counted.
    """
    graph = onnx.load(str(file)).graph
    if inside := [node.op_type for node in graph.node if any(each.type in HOLDING for each in node.attribute)]:
        raise ValueError(f"nodes hold tensors or graphs of their own: {', '.join(sorted(set(inside)))}")
    types = {each.name: TensorProto.DataType.Name(each.data_type) for each in graph.initializer}
    codes = {each.name for each in graph.initializer if each.dims and types[each.name] in BITS}
    elsewhere = {name for node in graph.node for place, name in enumerate(node.input) if place or node.op_type != "DequantizeLinear"}
    sizes = {each.name: math.prod(each.dims) for each in graph.initializer}
    return {
        "constants": len(codes),
        "before_dequantize": len(codes - elsewhere),
        "codes": sum(sizes[name] * BITS[types[name]] // 8 for name in codes),
        "floats": sum(len(each.raw_data) for each in graph.initializer if each.name not in codes),
    }


class Watch:
    """Called with each stage: its seconds, and what the ONNX file in ``folder`` holds, which is there when it is parsed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: list[tuple[str, float]] = []
        self.file: dict[str, Any] = {}

    def __call__(self, stage: str) -> None:
        if stage == "parsing":
            (file,) = self.folder.glob(".*/model.onnx")
            self.file = held(file)
        self.begun.append((stage, time.perf_counter()))

    def seconds(self) -> dict[str, int]:
        """Return stage -> its seconds, of those that took one."""
        ends = [*(when for _, when in self.begun[1:]), time.perf_counter()]
        spent: dict[str, float] = {}
        for (stage, when), end in zip(self.begun, ends, strict=True):
            spent[stage] = spent.get(stage, 0.0) + end - when
        return {stage: round(each) for stage, each in spent.items() if each >= 1}


def build(loaded: nn.Module, name: str) -> dict[str, Any]:
    """Build the engine of a recipe; returns what is known of it."""
    recipe = RECIPES["int8" if name == FLOAT else name]
    device = next((each for each in DEVICES if not refused(recipe.plan, each)), DEVICES[-1])
    capability = ".".join(map(str, device))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path, watch = Path(folder) / "model.engine", Watch(Path(folder))
        ignore = ["re:.*"] if name == FLOAT else []
        try:
            report = lowbit.export_tensorrt(
                loaded,
                EXAMPLE,
                path,
                recipe=recipe,
                capabilities=(capability,),
                dynamic_shapes=SHAPES,
                ignore=ignore,
                progress=watch,
            )
        except OptionError as error:
            return {"refused": str(error)}
        return {
            "capability": capability,
            "products": report.summary(),
            "bytes": path.stat().st_size,
            **watch.file,
            "seconds": round(time.perf_counter() - start),
            "stages": watch.seconds(),
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
    columns = ("engine", "compute capability", "MB", "of float32", "codes, MB", "floats, MB", "the rest, MB", "before DequantizeLinear")
    printed = Table(*columns, box=None)
    for name in filter(rows.__contains__, NAMES):
        row = rows[name]
        if "refused" in row:
            printed.add_row(name, "refused")
            continue
        parts = (row["codes"], row["floats"], row["bytes"] - row["codes"] - row["floats"])
        whole = (f"{row['bytes'] / 1e6:.0f}", f"{row['bytes'] / rows[FLOAT]['bytes']:.2f}")
        placed = f"{row['before_dequantize']} of {row['constants']}"
        printed.add_row(name, row["capability"], *whole, *(f"{part / 1e6:.0f}" for part in parts), placed)
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
