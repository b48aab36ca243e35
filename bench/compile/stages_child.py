"""One process's share of bench/compile/stages.py: compiles a model once, when a line comes in, and says what each stage of it took.

Started by stages.py with the tree's own interpreter and with a folder of its own for all caches.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lowbit_compiler as lowbit
from lowbit_compiler import backend
from lowbit_compiler.compile import executable, places, rewrite
from lowbit_compiler.demo import model as demo
from lowbit_compiler.pricing import timing
from lowbit_compiler.runtime.weights import STORE
from lowbit_compiler.torch_internals import inductor

STATUS = Path("/proc/self/status")
STAGES = {  # what is called, where it is looked up -> the stage that its time counts for, but for what other stages take inside
    (backend, "compile_dynamo"): "other",
    (places, "capture_dynamo"): "capture",
    (rewrite, "run_passes"): "passes",
    (timing.Timer, "seconds"): "plan",
    (executable.Executable, "load"): "pack",
    (inductor, "compile_graph"): "Inductor",
    (executable.Executable, "__call__"): "first run",
}


class Stages:
    """Seconds of each stage, and the processor's, each without those inside it; what no stage takes is Dynamo's."""

    def __init__(self) -> None:
        """Watch from now on."""
        self._clocks = {"seconds": time.perf_counter, "processor": time.process_time}
        self._of: dict[str, dict[str, float]] = {clock: defaultdict(float) for clock in self._clocks}
        self._start = self._now()
        self._inside: list[dict[str, float]] = []
        for (owner, name), stage in STAGES.items():
            setattr(owner, name, self._timed(stage, getattr(owner, name)))

    def _now(self) -> dict[str, float]:
        return {clock: read() for clock, read in self._clocks.items()}

    def _timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``call``, whose time counts for ``stage``."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            self._inside.append(dict.fromkeys(self._clocks, 0.0))
            try:
                return call(*args, **kwargs)
            finally:
                now, inside = self._now(), self._inside.pop()
                for clock in self._clocks:
                    passed = now[clock] - start[clock]
                    self._of[clock][stage] += passed - inside[clock]
                    if self._inside:
                        self._inside[-1][clock] += passed

        return run

    def result(self) -> dict[str, dict[str, float]]:
        """Return the time of each stage so far, by clock."""
        now = self._now()
        return {clock: {"Dynamo": now[clock] - self._start[clock] - sum(of.values()), **of} for clock, of in self._of.items()}


def memory(field: str) -> float:
    """Return ``field`` of this process's status in MB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


def random_qwen() -> torch.nn.Module:
    """Return a model of the shapes of Qwen2-1.5B, whose weights (bfloat16, 3.1 GB, head and embedding tied) are random."""
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
        tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        model: Any = transformers.Qwen2ForCausalLM(config)
    model.to_empty(device="cpu").to(torch.bfloat16)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its frequencies are computed, not stored
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if name.endswith("norm.weight"):
            parameter.fill_(1)
        else:
            parameter.uniform_(-0.03, 0.03, generator=generator)
    return model.eval()


MODELS: dict[str, Callable[[], torch.nn.Module]] = {"smollm2": lambda: demo.load().model, "random-1.5b": random_qwen}


def main(name: str, tokens: str, options: str) -> None:
    """Answer a line with the time of each stage and the memory in MB (10^6 bytes), as JSON; the first line says which tree this is."""
    sys.stdout, answers = sys.stderr, sys.stdout  # nothing else goes where the answers go
    model: Any = MODELS[name]()
    ids = torch.arange(int(tokens))[None]
    print(json.dumps({"tree": lowbit.__file__}), file=answers, flush=True)
    sys.stdin.readline()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, stages = memory("VmRSS"), Stages()
    with torch.no_grad():
        torch.compile(lambda ids: model(ids, use_cache=False).logits, backend="lowbit", options=json.loads(options))(ids)
    answer: dict[str, Any] = stages.result()
    answer["megabytes"] = {
        "float weights": sum(parameter.nbytes for parameter in model.parameters()) / 1e6,
        "packed weights": STORE.nbytes() / 1e6,
        "resident before": before,
        "resident, peak": memory("VmHWM"),
        "resident after": memory("VmRSS"),
    }
    print(json.dumps(answer | {"summary": lowbit.last_report().summary()}), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
