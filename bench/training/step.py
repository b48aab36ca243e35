"""A training step, forward, backward and AdamW, of models of 12 layers: bfloat16 by Inductor, int8 and int4 by lowbit, in one interleaved run.

python bench/training/step.py bert|llama [--layers 12] [--rounds 3] [--threads 2]

Weights are random and float32, everything runs under autocast to bfloat16, AdamW is fused: the same for all. Written are seconds of a step, of
the clock and of the processor; what autograd keeps from forward to backward; and what a step's time goes to (torch.profiler).
"""

import argparse
import copy
import resource
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

TOKENS, LENGTH, CLASSES = 2048, 128, 2
CONTESTANTS = ("inductor bfloat16", "int8-training", "int4-training")
PARTS = {
    "linears": ("lowbit::train_", "aten::mm", "aten::addmm", "mkldnn::_linear", "mkl::_mkl_linear", "aten::_mkldnn"),
    "attention": ("aten::_scaled_dot_product", "aten::bmm", "aten::baddbmm"),
    "optimizer": ("aten::_fused_adamw_",),
}
"""Names of the events that count for each part; the rest is what Inductor fused, and torch's own."""


def bert(layers: int) -> nn.Module:
    """BERT-base that learns to classify: hidden size 768, 12 heads, 3072 between."""
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(num_hidden_layers=layers, num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )


def llama(layers: int) -> nn.Module:
    """Llama with hidden size 1024, 16 heads, 2816 between, and 32,000 words."""
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=layers, use_cache=False, **sizes))


MODELS: dict[str, tuple[Callable[[int], nn.Module], Callable[[Tensor], Tensor]]] = {
    "bert": (bert, lambda words: words[:, 0] % CLASSES),
    "llama": (llama, lambda words: words),
}


class Contestant:
    """A copy of the model that learns, however it is compiled."""

    def __init__(self, name: str, model: nn.Module, words: Tensor, labels: Tensor) -> None:
        self.model, self.words, self.labels = copy.deepcopy(model), words, labels
        options = {} if name == CONTESTANTS[0] else {"backend": "lowbit", "options": {"recipe": name}}
        self.run = torch.compile(self.model, **options)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, fused=True)

    def loss(self) -> Tensor:
        """Of the one batch."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.run(input_ids=self.words, labels=self.labels).loss

    def step(self) -> dict[str, float]:
        """Return the seconds of each part, and of the processor for all of them."""
        begin, clock = processor_seconds(), [time.perf_counter()]
        loss = self.loss()
        clock.append(time.perf_counter())
        loss.backward()
        clock.append(time.perf_counter())
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.append(time.perf_counter())
        parts = dict(zip(("forward", "backward", "optimizer"), (b - a for a, b in pairwise(clock)), strict=True))
        return {**parts, "step": clock[-1] - clock[0], "processor": processor_seconds() - begin}

    def kept_bytes(self) -> int:
        """Return the bytes of all storages that autograd keeps for the backward pass, but for those of parameters and inputs."""
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = self.loss()
        own = {each.untyped_storage().data_ptr() for each in (*self.model.parameters(), *self.model.buffers(), self.words, self.labels)}
        loss.backward()
        self.optimizer.zero_grad()
        return sum(size for address, size in kept.items() if address not in own)

    def budget(self) -> dict[str, float]:
        """Return the milliseconds of one step by part, and by the ops of lowbit."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.step()
        spent: dict[str, float] = {}
        for event in profile.key_averages():
            part = next((part for part, names in PARTS.items() if event.key.startswith(names)), "other")
            spent[part] = spent.get(part, 0.0) + event.self_cpu_time_total / 1e3
            if event.key.startswith("lowbit::"):
                spent[event.key] = event.self_cpu_time_total / 1e3
        return {part: round(value, 1) for part, value in spent.items()}


def processor_seconds() -> float:
    """Return the time that the threads of this process ran."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(contestants: dict[str, Contestant], rounds: int) -> dict[str, Any]:
    """Return the median of each part for all, and what is kept; everyone has a turn in each round, and one before that is not counted."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(2):
        for contestant in contestants.values():
            contestant.step()
    for _ in range(rounds):
        for name, contestant in contestants.items():
            turns[name].append(contestant.step())
    return {
        name: {
            "seconds": {part: round(median(turn[part] for turn in turns[name]), 4) for part in turns[name][0]},
            "least": {part: round(min(turn[part] for turn in turns[name]), 4) for part in turns[name][0]},
            "kept bytes": contestant.kept_bytes(),
            "budget ms": contestant.budget(),
        }
        for name, contestant in contestants.items()
    }


def show(title: str, results: dict[str, Any]) -> None:
    """Print the table, each beside the first."""
    table = Table("", "step s", "x", "processor s", "x", "forward", "backward", "kept MB", "x", title=title)
    first = results[CONTESTANTS[0]]
    for name, one in results.items():
        least, base = one["least"], first["least"]
        ratios = [f"{base[part] / least[part]:.2f}" for part in ("step", "processor")]
        kept = f"{one['kept bytes'] / 2**20:.0f}", f"{one['kept bytes'] / first['kept bytes']:.2f}"
        table.add_row(
            name,
            f"{least['step']:.2f}",
            ratios[0],
            f"{least['processor']:.2f}",
            ratios[1],
            *(f"{least[part]:.2f}" for part in ("forward", "backward")),
            *kept,
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="name of the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    make, labels_of = MODELS[arguments.model]
    model = make(arguments.layers)
    words = torch.randint(0, 30000, (TOKENS // LENGTH, LENGTH))
    contestants = {name: Contestant(name, model, words, labels_of(words)) for name in CONTESTANTS}
    results = measure(contestants, arguments.rounds)
    show(f"{arguments.model}, {arguments.layers} layers, {TOKENS} tokens", results)
    about = common.about(arguments.threads, transformers=transformers.__version__, layers=arguments.layers, tokens=TOKENS)
    print(common.write(arguments.out or f"training_step_{arguments.model}.json", {**about, "results": results}))


if __name__ == "__main__":
    main()
