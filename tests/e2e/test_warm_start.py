"""A second process that compiles the same model finds the rest of the graph in the caches of Inductor and AOTAutograd."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lowbit_compiler.compile import remainder

TWO_LAYERS = """
import json, sys, torch
from torch._dynamo.utils import counters
from helpers import zoo
from helpers.compiled import cosine

torch.manual_seed(int(sys.argv[1]))
model, inputs = zoo.causal("Llama")()
compiled = torch.compile(model, backend="lowbit", fullgraph=True, dynamic=False, options={"plan": "always"})
with torch.no_grad():
    likeness = cosine(compiled(**inputs).logits, model(**inputs).logits)
print(json.dumps({"cosine": likeness, **counters["aot_autograd"], **counters["inductor"]}))
"""


def compile_in_a_process(cache: Path, seed: int) -> dict[str, Any]:
    """Return the counters of a fresh process, whose model has the random weights of ``seed``."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", TWO_LAYERS, str(seed)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.model
def test_second_process_hits(tmp_path: Path) -> None:
    """Also with other weights: they are inputs of what is cached, and the rewritten graph is the same to the letter."""
    cold, warm = (compile_in_a_process(tmp_path, seed) for seed in (0, 1))
    assert cold["cosine"] > 0.99
    assert warm["cosine"] > 0.99
    assert (cold["autograd_cache_miss"], cold["autograd_cache_saved"], cold["fxgraph_cache_miss"]) == (1, 1, 1)
    assert (warm["autograd_cache_hit"], warm["fxgraph_cache_hit"]) == (1, 1)
    assert not any(count for name, count in warm.items() if "miss" in name or "bypass" in name)


def test_caches_know_the_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strides that an op's shape function promises are in the compiled code and not in the graph: another source, another key."""
    seen = []
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda *_, **__: seen.append(torch.compiler.config.cache_key_tag))
    graph = torch.fx.symbolic_trace(lambda x: x)
    with torch.compiler.config.patch(cache_key_tag="mine"):
        remainder.compile_remainder(graph, [torch.ones(1)], "inductor", None)
    assert seen == [f"mine {remainder.cache_tag()}"]
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"changed")
    assert remainder.cache_tag.__wrapped__() != remainder.cache_tag()
