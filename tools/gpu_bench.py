"""Times products, softmax and a model of a billion weights on a GPU, beside what one would use instead, in interleaved rounds.

Products and softmax are recorded in CUDA graphs, so their times are the GPU's; models are called as a user would.
"""

import importlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_models import Llama, llama_1b, small_llama
from torch import Tensor

WIDTHS = (
    768,
    1024,
    1536,
    2048,
    2560,
    4096,
    5120,
    12288,
)  # of the models in the speed table of the LLM.int8() paper; outputs are 4 times that
ROWS = (1, 16, 512, 4096)
SOFTMAX_ROWS = ((4096, 128), (4096, 1024), (4096, 4096), (512, 32000), (32, 1 << 20))
RECIPES = ("int8", "llm-int8", "int8-weight-only", "int4-weight-only")
PROMPT, CACHED = 512, 512
ROUNDS = 20

Calls = dict[str, Callable[[], object]]
Row = dict[str, Any]


def product_calls(rows: int, k: int, n: int, device: str) -> Calls:
    """Every way to multiply ``rows`` x ``k`` by ``n`` outputs."""
    ops = torch.ops.lowbit
    x = torch.randn(rows, k, device=device, dtype=torch.bfloat16)
    x[:, :: k // 6] *= 20  # six outlier columns, as LLM.int8() finds them
    w = torch.randn(n, k, device=device, dtype=torch.bfloat16) / k**0.5
    q, scale = ops.quantize_s8(w)
    rotated = ops.pack_s8(*ops.quantize_s8(ops.rotate(w)))
    packed, packed4 = ops.pack_s8(q, scale), ops.pack_s4(*ops.quantize_s4(w, 64), 64)
    half, half_w = x.half(), w.half()
    calls: Calls = {
        "bfloat16": lambda: torch.mm(x, w.t()),
        "float16": lambda: torch.mm(half, half_w.t()),
        "s8s8": lambda: ops.linear_s8s8(x, packed, None, n, None),
        "s8s8_rotated": lambda: ops.linear_s8s8_rotated(x, rotated, None, n, None),
        "s8s8_columns": lambda: ops.linear_s8s8_columns(x, packed, None, n, 6.0, None),
        "s8s8_rows": lambda: ops.linear_s8s8_rows(x, packed, None, n, None),
        "fs8": lambda: ops.linear_fs8(x, packed, None, n, None),
        "fs4": lambda: ops.linear_fs4(x, packed4, None, n, 64, None),
    }
    if rows > 16 and device == "cuda":  # what torch._int_mm takes
        codes, s_x = ops.quantize_s8(x)
        calls["_int_mm, epilogue"] = lambda: (torch._int_mm(codes, q.t()).float() * s_x * scale.t()).to(x.dtype)
    return calls | peer_products(x, w)


def peer_products(x: Tensor, w: Tensor) -> Calls:
    """Int8 linears of bitsandbytes and torchao, where they are installed and work."""
    n, k = w.shape
    calls: Calls = {}
    try:
        bnb: Any = importlib.import_module("bitsandbytes")
        layer = bnb.nn.Linear8bitLt(k, n, bias=False, has_fp16_weights=False, threshold=6.0)
        layer.weight = bnb.nn.Int8Params(w.half().cpu(), requires_grad=False, has_fp16_weights=False)
        layer, half = layer.to(x.device), x.half()
        layer(half)
        calls["bitsandbytes"] = lambda: layer(half)
    except Exception as error:
        print(f"  bitsandbytes left out: {type(error).__name__}: {str(error)[:80]}")
    try:
        ao: Any = importlib.import_module("torchao.quantization")
        linear = torch.nn.Linear(k, n, bias=False, device=x.device, dtype=x.dtype)
        ao.quantize_(linear, ao.Int8DynamicActivationInt8WeightConfig())
        compiled = torch.compile(linear)
        compiled(x)
        calls["torchao"] = lambda: compiled(x)
    except Exception as error:
        print(f"  torchao left out: {type(error).__name__}: {str(error)[:80]}")
    return calls


def seconds_of(calls: Calls, device: str) -> dict[str, float]:
    """Return the fastest round of each call, on the GPU's clock; what cannot be recorded is left out."""
    from lowbit_compiler import gpu_timing

    timings: Any = importlib.import_module("lowbit_compiler.runtime.timings")
    ready: Calls = {}
    for name, call in calls.items():
        try:
            ready |= gpu_timing.recorded({name: call}, device)
        except Exception as error:
            print(f"  {name} left out: {type(error).__name__}: {str(error)[:80]}")
    return {name: min(times) / gpu_timing.calls(device) for name, times in timings.measure(ready).items()}


def products(device: str, widths: tuple[int, ...], rows: tuple[int, ...]) -> list[Row]:
    """The table of products."""
    table = []
    for width in widths:
        for m in rows:
            with torch.no_grad():
                seconds = seconds_of(product_calls(m, width, 4 * width, device), device)
            table.append({"rows": m, "k": width, "n": 4 * width, "seconds": seconds})
            _show(f"{m} x {width} x {4 * width}", seconds, "bfloat16")
    return table


def softmaxes(device: str, shapes: tuple[tuple[int, int], ...]) -> list[Row]:
    """The table of softmax rows."""
    table = []
    for shape in shapes:
        x = torch.randn(shape, device=device, dtype=torch.bfloat16)
        calls: Calls = {
            "torch": partial(torch.softmax, x, -1),
            "lowbit": partial(torch.ops.lowbit.softmax, x, -1, 1.0, None, False, None),
        }
        seconds = seconds_of(calls, device)
        table.append({"rows": shape[0], "n": shape[1], "seconds": seconds})
        _show(f"softmax {shape[0]} x {shape[1]}", seconds, "torch")
    return table


def model_runs(net: Llama, mode: str | None) -> dict[str, Callable[..., Any]]:
    """The model compiled by Inductor alone and with each recipe."""
    from lowbit_compiler.backend import lowbit

    runs: dict[str, Callable[..., Any]] = {"bfloat16": torch.compile(net, mode=mode, fullgraph=True)}
    for recipe in RECIPES:
        runs[recipe] = torch.compile(net, backend=partial(lowbit, mode=mode, options={"recipe": recipe}), fullgraph=True)
    return runs


def model(device: str, net: Llama, vocabulary: int) -> list[Row]:
    """Prefill of a prompt, and one token after a cache, by CUDA graphs."""
    net = net.eval().requires_grad_(False).to(device, torch.bfloat16)
    caches = net.caches(CACHED)
    prompt = torch.randint(vocabulary, (1, PROMPT), device=device)
    table = []
    for title, args, mode in (("prefill", (prompt,), None), ("decode", (prompt[:, :1], caches), "reduce-overhead")):
        torch._dynamo.reset()
        runs = model_runs(net, mode)
        times: dict[str, list[float]] = {name: [] for name in runs}
        with torch.no_grad():
            for turn in range(ROUNDS + 5):  # the first ones compile and record
                for name, run in runs.items():
                    wait(device)
                    start = time.perf_counter()
                    run(*args)
                    wait(device)
                    if turn >= 5:
                        times[name].append(time.perf_counter() - start)
        seconds = {name: median(taken) for name, taken in times.items()}
        table.append({"model": title, "seconds": seconds})
        _show(f"{title}", seconds, "bfloat16")
    return table


def wait(device: str) -> None:
    """Wait until the GPU has nothing to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def _show(title: str, seconds: dict[str, float], base: str) -> None:
    ratios = ", ".join(f"{name} {seconds[base] / time:.2f}x" for name, time in seconds.items() if name != base)
    print(f"{title:<24}{base} {seconds[base] * 1e6:.1f} us; {ratios}")


def main(device: str, folder: Path) -> None:
    """Time everything; on the CPU a little of it, to try this script."""
    gpu = device == "cuda"
    name = torch.cuda.get_device_name() if gpu else "cpu"
    results: Row = {"device": name, "torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d")}
    results["products"] = products(device, WIDTHS if gpu else WIDTHS[:1], ROWS if gpu else ROWS[:2])
    results["softmax"] = softmaxes(device, SOFTMAX_ROWS if gpu else SOFTMAX_ROWS[:1])
    results["model"] = model(device, llama_1b(), 32000) if gpu else model(device, small_llama(), 1000)
    if gpu:
        file = folder / f"gpu_{name.lower().replace(' ', '-')}.json"
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(f"gpu-check: all results are in {file}")
    print(f"\n{name}, torch {torch.__version__}: times faster than bfloat16")
    print(f"{'rows x K x N':<24}" + "".join(f"{column:>14}" for column in ("s8s8", "s8s8_columns", "fs8", "fs4")))
    for row in results["products"]:
        shown = [row["seconds"]["bfloat16"] / row["seconds"][column] for column in ("s8s8", "s8s8_columns", "fs8", "fs4")]
        print(f"{row['rows']} x {row['k']} x {row['n']:<16}" + "".join(f"{ratio:>14.2f}" for ratio in shown))
    for row in results["model"]:
        faster = {recipe: row["seconds"]["bfloat16"] / row["seconds"][recipe] for recipe in RECIPES}
        print(f"{row['model']:<24}" + "  ".join(f"{recipe} {ratio:.2f}" for recipe, ratio in faster.items()))
