"""SmolLM2-135M-Instruct in ONNX Runtime: every recipe's file, the float32 file, and onnxruntime's own quantize_dynamic.

python bench/onnx/smollm2.py make             export what is not in the folder yet (a minute a file)
python bench/onnx/smollm2.py perplexity       of every file, on the texts of bench/accuracy/recipes.py
python bench/onnx/smollm2.py time             seconds for some lengths, taking turns: with nothing else on the machine, some 3 minutes
python bench/onnx/smollm2.py table            the results as a table

Each step adds to bench/results/onnx_smollm2.json; `--folder` says where the files are (2 GB in all).
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import TensorProto
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

import lowbit_compiler as lowbit
from lowbit_compiler.demo import model, text
from lowbit_compiler.demo.perplexity import perplexity
from lowbit_compiler.exits.onnx.session import session
from lowbit_compiler.recipes import WITH_KERNELS

FOLDER = Path("build/onnx_smollm2")
RESULT = "onnx_smollm2.json"
FLOAT, THEIRS = "float32", "quantize_dynamic"
LENGTHS = (512, 32, 1)
WINDOW = 512  # tokens at once, for perplexity
FILES: dict[str, tuple[str, str]] = {
    FLOAT: ("int8", "integer"),
    THEIRS: ("", ""),
    **{name: (name, "integer") for name in WITH_KERNELS},
    "int4-weight-only, qdq": ("int4-weight-only", "qdq"),
}
"""Contestant -> recipe and form; of float32 every product is ignored."""
EXAMPLE = {"input_ids": torch.ones(2, 5, dtype=torch.int64)}
SHAPES = {"input_ids": {0: "batch", 1: "length"}}


def path_of(folder: Path, name: str) -> Path:
    """Return where the file of a contestant is."""
    return folder / f"{name.replace(', ', '-')}.onnx"


def make(folder: Path, only: list[str], console: Console) -> None:
    """Export every file that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    loaded = None
    for name in only or FILES:
        path = path_of(folder, name)
        if path.exists():
            continue
        if name == THEIRS:
            _quantize_dynamic(folder, path)
            continue
        loaded = loaded or common.Logits(model.load(torch.float32, console).model).eval()
        recipe, form = FILES[name]
        ignore = ["re:.*"] if name == FLOAT else []
        report = lowbit.export_onnx(loaded, EXAMPLE, path, recipe=recipe, form=form, ignore=ignore, dynamic_shapes=SHAPES)
        console.print(f"{name}: {report.summary()}; {report.notes[0]}", markup=False)


def _quantize_dynamic(folder: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=folder) as beside:
        simplified, made = Path(beside) / "simplified.onnx", Path(beside) / path.name
        quant_pre_process(str(path_of(folder, FLOAT)), str(simplified), skip_symbolic_shape=True)  # transposed weights become constants
        quantize_dynamic(str(simplified), str(made), weight_type=QuantType.QInt8, per_channel=True)
        os.replace(made, path)


def runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the file's model as a function of token ids."""
    running = session(path, torch.get_num_threads())
    return lambda ids: torch.from_numpy(running.run(None, {"input_ids": ids.numpy()})[0])


def measure_perplexity(folder: Path, only: list[str], tokens: int, console: Console) -> None:
    """Measure the perplexity of every file, and of the recipes in PyTorch where that is not known yet."""
    tokenizer = model.tokenizer()
    ids = {name: text.token_ids(tokenizer, name, tokens) for name in text.TEXTS}
    names = [name for name in only or FILES if path_of(folder, name).exists()]
    rows: dict[str, Any] = {}
    with Progress(console=console) as progress:
        task = progress.add_task("perplexity", total=len(names) * len(ids))
        for name in names:
            run = runner(path_of(folder, name))
            rows[name] = {}
            for source, piece in ids.items():
                rows[name][source] = perplexity(run, piece, WINDOW)
                progress.advance(task)
            add("perplexity", rows, tokens=tokens)


def measure_times(folder: Path, only: list[str], rounds: int) -> None:
    """Time every file at every length, in turns."""
    ids = text.token_ids(model.tokenizer(), "english", max(LENGTHS))
    names = [name for name in only or FILES if path_of(folder, name).exists()]
    runs = {name: runner(path_of(folder, name)) for name in names}
    rows: dict[str, Any] = {name: {} for name in names}
    for length in LENGTHS:
        piece = ids[:, :length].contiguous()
        calls = {name: (lambda run=run, piece=piece: run(piece)) for name, run in runs.items()}
        for name, times in common.interleaved(calls, rounds, at_least=0.1, settle=False).items():
            rows[name][str(length)] = median(times)
    add("seconds", rows, rounds=rounds, threads=torch.get_num_threads())


def add(what: str, rows: dict[str, Any], **about: Any) -> None:
    """Add rows to the result file, each with what ``about`` says of its measurement."""
    file = common.RESULTS / RESULT
    content = json.loads(file.read_text()) if file.exists() else {"about": {}}
    more = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    content["about"] = {**content["about"], **common.about(torch.get_num_threads(), **more)}
    content[what] = {**content.get(what, {}), **{name: {**row, **about} for name, row in rows.items()}}
    common.write(RESULT, content)


def linears_part(path: Path) -> float:
    """Return the bytes of the quantized weights and of everything else but float matrices, against these weights in float32."""
    bits = {TensorProto.INT4: 4, TensorProto.INT8: 8, TensorProto.UINT8: 8}
    tensors = onnx.load(str(path)).graph.initializer
    codes = {tensor.name: math.prod(tensor.dims) for tensor in tensors if tensor.data_type in bits and len(tensor.dims) == 2}
    kept = sum(tensor.ByteSize() for tensor in tensors if tensor.name not in codes and len(tensor.dims) == 2 and "scale" not in tensor.name)
    return (path.stat().st_size - kept) / (4 * sum(codes.values()))


def table(folder: Path, console: Console) -> None:
    """Print what is known; sizes are those of the files in the folder, which are added to the results."""
    content = json.loads((common.RESULTS / RESULT).read_text())
    made = {name: path_of(folder, name) for name in FILES if path_of(folder, name).exists()}
    content["bytes"] = {**content.get("bytes", {}), **{name: path.stat().st_size for name, path in made.items()}}
    content["linears"] = {**content.get("linears", {}), **{name: linears_part(path) for name, path in made.items() if name != FLOAT}}
    common.write(RESULT, content)
    torch_rows = json.loads((common.RESULTS / "perplexity_float32.json").read_text())["perplexity"]
    printed = Table(title="SmolLM2-135M-Instruct in ONNX Runtime", title_justify="left")
    for name in ("", "MB", "linears", *(f"{length} tokens, ms" for length in LENGTHS), *text.TEXTS, "in PyTorch", "change"):
        printed.add_column(name, justify="left" if not name else "right")
    for name, (recipe, _) in FILES.items():
        seconds, measured = content.get("seconds", {}).get(name, {}), content.get("perplexity", {}).get(name, {})
        known = torch_rows.get(FLOAT if name == FLOAT else recipe, {})
        printed.add_row(
            name,
            f"{content['bytes'].get(name, 0) / 1e6:.0f}",
            f"{content['linears'][name]:.3f}" if name in content["linears"] else "",
            *(f"{seconds[str(length)] * 1e3:.1f}" if seconds else "" for length in LENGTHS),
            *(f"{measured[source]:.3f}" if measured else "" for source in text.TEXTS),
            " / ".join(f"{known[source]:.3f}" for source in text.TEXTS if known),
            " / ".join(f"{measured[source] / known[source] - 1:+.2%}" for source in text.TEXTS if known and measured),
        )
    console.print(printed)


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("step", choices=("make", "perplexity", "time", "table"))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--only", action="append", default=[], choices=list(FILES))
    parser.add_argument("--tokens", type=int, default=text.TOKENS)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.tokens < WINDOW:
        parser.error(f"--tokens takes a number from {WINDOW} on, got {args.tokens}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    if args.step == "make":
        make(args.folder, args.only, console)
    elif args.step == "perplexity":
        measure_perplexity(args.folder, args.only, args.tokens, console)
    elif args.step == "time":
        measure_times(args.folder, args.only, args.rounds)
    else:
        table(args.folder, console)


if __name__ == "__main__":
    main()
