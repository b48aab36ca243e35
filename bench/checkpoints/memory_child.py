"""Loads and compiles one model in a process of its own, and prints the memory that it has meanwhile, as JSON: bench/checkpoints/memory.py asks."""

import gc
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import lowbit_compiler as lowbit
from lowbit_compiler.compile import driver
from lowbit_compiler.runtime.weights import trim

EVERY = 0.002
"""Seconds between two looks."""
assert driver.log


def resident() -> tuple[float, float]:
    """Return anonymous and file-backed memory, in MB (10^6 bytes)."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Rss"))
    return tuple(int(found[name].split()[0]) * 1024 / 1e6 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


class Curve(threading.Thread):
    """Memory over time, above what there was at the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.points: list[tuple[float, float, float]] = []
        self._base, self._begin, self._on = resident(), time.perf_counter(), True

    def run(self) -> None:
        """Look until it is stopped."""
        while self._on:
            self.look()
            time.sleep(EVERY)

    def look(self) -> None:
        """Look once."""
        now = resident()
        self.points.append((time.perf_counter() - self._begin, now[0] - self._base[0], now[1] - self._base[1]))

    def stop(self) -> None:
        """End, with a last look."""
        self._on = False
        self.join()
        self.look()

    def peak(self, since: float = 0.0) -> float:
        """Return the most anonymous memory from a time on."""
        return max(anonymous for seconds, anonymous, _ in self.points if seconds >= since)


def load(way: str, folder: str, recipe: str) -> Any:
    """Load the model in one of the ways."""
    if way == "float, mapped":
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().requires_grad_(False)
    if way == "float, own memory":
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model
    if way == "LowbitConfig":
        return transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=lowbit.LowbitConfig(recipe)).eval()
    return lowbit.load(folder, recipe=recipe)


def run(model: Any, recipe: str, remainder: str) -> None:
    """Compile the model and call it."""
    options = {"recipe": recipe, "free_weights": True, "plan": "always", "remainder": remainder}
    with torch.no_grad():
        torch.compile(model, backend="lowbit", options=options)(torch.arange(32)[None], use_cache=False)


def main() -> None:
    """Load, compile and call."""
    way, folder, recipe, remainder = sys.argv[1:]
    torch.set_num_threads(1)
    run(load(way, str(Path(folder) / "tiny"), recipe), recipe, remainder)  # what is imported and made once is no part of a model
    torch.compiler.reset()
    gc.collect()
    trim()
    curve = Curve()
    curve.start()
    model = load(way, folder, recipe)
    loaded = time.perf_counter() - curve._begin
    gc.collect()
    trim()
    held = (
        sum(
            {
                each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in (*model.parameters(), *model.buffers())
            }.values()
        )
        / 1e6
    )
    after_load, peak_load = resident()[0] - curve._base[0], curve.peak()
    run(model, recipe, remainder)
    gc.collect()
    trim()
    curve.stop()
    print(json.dumps({
        "seconds": {"load": loaded, "all": curve.points[-1][0]}, "held after loading": held, "anonymous after loading": after_load,
        "anonymous peak while loading": peak_load, "anonymous peak": curve.peak(), "anonymous after": curve.points[-1][1],
        "notes": lowbit.last_report().notes, "curve": curve.points,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
