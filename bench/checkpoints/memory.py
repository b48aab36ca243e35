"""Memory while a model is loaded and compiled, in four ways, each in a process of its own: the curves, and the peaks against what must be there.

python bench/checkpoints/memory.py    # writes bench/results/checkpoints_memory.json and .png; --draw draws the file anew
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common import RESULTS, about, write

WAYS = ("float, mapped", "float, own memory", "LowbitConfig", "lowbit.load")
RECIPE = "int8"
STEP = 0.05
"""Seconds between two points of the drawing."""


def make(folder: Path) -> None:
    """Write a random Llama of 536 MB in bfloat16, in five files, and a tiny one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    for where, width, layers, vocabulary in ((folder, 1024, 16, 16000), (folder / "tiny", 64, 1, 64)):
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=16,
            num_key_value_heads=8, max_position_embeddings=512, tie_word_embeddings=True, eos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(where, max_shard_size="130MB")


def measure(remainder: str) -> dict[str, Any]:
    """Run every way."""
    found = {}
    child = Path(__file__).with_name("memory_child.py")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--make", folder], check=True)
        for way in WAYS:
            command = [sys.executable, str(child), way, folder, RECIPE, remainder]
            found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            curve = found[way].pop("curve")
            found[way]["curve"] = [point for at, point in enumerate(curve) if at == 0 or point[0] // STEP != curve[at - 1][0] // STEP]
            print(way, {key: value for key, value in found[way].items() if key != "curve"}, flush=True)
    return found


def draw(content: dict[str, Any]) -> None:
    """Draw the curves."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for way, found in content["ways"].items():
        seconds, anonymous, _ = zip(*found["curve"], strict=True)
        (line,) = axis.plot(seconds, anonymous, label=f"{way}: peak {found['anonymous peak']:.0f} MB")
        axis.axvline(found["seconds"]["load"], color=line.get_color(), linewidth=0.6, linestyle=":")
    axis.axhline(content["float MB"], color="gray", linewidth=0.8, linestyle="--")
    axis.text(0, content["float MB"] + 6, "float weights", color="gray")
    axis.set(xlabel="seconds (dotted: loaded)", ylabel="anonymous memory, MB", title=content["title"])
    axis.legend()
    figure.savefig(RESULTS / "checkpoints_memory.png", dpi=110)


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--remainder", default="inductor", choices=("inductor", "eager"))
    given = parser.parse_args()
    if given.make:
        make(given.make)
        return
    if not given.draw:
        ways = measure(given.remainder)
        title = f"Llama of 268 M parameters: load, torch.compile(free_weights=True, remainder={given.remainder!r}), one call"
        write(
            "checkpoints_memory.json",
            about(1, title=title, recipe=RECIPE, **{"float MB": ways["float, own memory"]["held after loading"]}, ways=ways),
        )
    draw(json.loads((RESULTS / "checkpoints_memory.json").read_text()))


if __name__ == "__main__":
    main()
