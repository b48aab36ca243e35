"""Real models saved in int8, loaded in a new process, and compared bit for bit with the compiled original; seconds to load beside transformers' float load.

python bench/checkpoints/models.py --out bench/results/checkpoints_models.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path += [str(Path(__file__).resolve().parents[2] / "tests"), str(Path(__file__).resolve().parents[1])]

from common import about

import lowbit_compiler as lowbit
from helpers import minilm, whisper
from lowbit_compiler.demo import model as smollm2
from lowbit_compiler.runtime import files

OPTIONS = {"plan": "always", "remainder": "eager"}
MODELS = ("smollm2", "whisper-base", "minilm")


def original(name: str) -> Any:
    """Return a model in float."""
    found = {
        "smollm2": lambda: smollm2.load(torch.bfloat16).model,
        "whisper-base": lambda: whisper.load()[0],
        "minilm": lambda: minilm.load()[0],
    }[name]()
    return found.eval().requires_grad_(False)


def outputs(model: Any, name: str, recipe: Any) -> torch.Tensor:
    """Return what the compiled model says of one input."""
    compiled = torch.compile(model, backend="lowbit", options={**OPTIONS, "recipe": recipe})
    ids = torch.arange(24)[None] + 300
    with torch.no_grad():
        if name == "minilm":
            return compiled(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state  # type: ignore[no-any-return]
        if name == "whisper-base":
            heard = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
            return compiled(input_features=heard, decoder_input_ids=ids).logits  # type: ignore[no-any-return]
        return compiled(ids, use_cache=False).logits  # type: ignore[no-any-return]


def child(way: str, name: str, folder: str, out: str) -> None:
    """Load in one way, and write outputs and seconds."""
    import transformers

    torch.set_num_threads(1)
    kind = getattr(transformers, json.loads((Path(folder) / "config.json").read_text())["architectures"][0])
    assert kind.from_pretrained
    assert lowbit.load  # both imported before the clock
    start, used = time.perf_counter(), time.process_time()
    model = kind.from_pretrained(folder).eval().requires_grad_(False) if way == "float" else lowbit.load(folder)
    for parameter in model.parameters():
        parameter.view(torch.uint8).flatten()[::4096].sum()  # mapped pages are read too
    seconds = {"passed": time.perf_counter() - start, "of the processor": time.process_time() - used}
    recipe = "int8" if way == "float" else model.lowbit_recipe
    torch.save({"seconds": seconds, "outputs": outputs(model, name, recipe)}, out)


def row(name: str, folder: Path) -> dict[str, Any]:
    """Return what is found of one model."""
    model = original(name)
    model.save_pretrained(folder / "float", max_shard_size="100MB")
    start = time.perf_counter()
    lowbit.save_pretrained(model, folder / "low", "int8", max_shard_size=60_000_000)
    saving = time.perf_counter() - start
    del model
    found = {}
    for way in ("float", "low"):
        command = [sys.executable, __file__, "--child", way, name, str(folder / way), str(folder / f"{way}.pt")]
        subprocess.run(command, check=True)
        found[way] = torch.load(folder / f"{way}.pt")
    sizes = {way: sum(path.stat().st_size for path in (folder / way).iterdir()) / 1e6 for way in found}
    return {
        "bit-equal": torch.equal(found["float"]["outputs"], found["low"]["outputs"]), "outputs": list(found["low"]["outputs"].shape),
        "MB": sizes, "seconds to save": saving, "seconds to load": {way: each["seconds"] for way, each in found.items()},
    }  # fmt: skip


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=4)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    rows = {}
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row(name, Path(folder))
        print(name, json.dumps(rows[name]), flush=True)
    if given.out:
        files.write(given.out, json.dumps(about(1, recipe="int8", options=OPTIONS, models=rows), indent=1) + "\n")


if __name__ == "__main__":
    main()
