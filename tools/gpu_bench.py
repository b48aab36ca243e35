"""Times products, softmax and a model of a billion weights on a GPU, beside what one would use instead, in interleaved rounds.

Products and softmax are recorded in CUDA graphs, so their times are the GPU's; models are called as a user would. Products read copies of
their weights in turn, which together are more than the L2 cache holds: a model's next layer has other weights.
"""

import functools
import importlib
import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from gpu_models import Llama, llama_1b, small_llama
from gpu_steps import Step
from torch import Tensor

WIDTHS = (4096, 768, 1024, 1536, 2048, 2560, 5120, 12288)
"""Of the models in the speed table of the LLM.int8() paper, the most usual one first; outputs are 4 times that."""
ROWS = (1, 16, 512, 4096)
SOFTMAX_ROWS = ((4096, 128), (4096, 1024), (4096, 4096), (512, 32000), (32, 1 << 20))
RECIPES = ("int8", "llm-int8", "int8-weight-only", "int4-weight-only")
SHOWN = ("s8s8", "s8s8_columns", "s8u4_nested", "fs8", "fs4", "fu4")
PROMPT, CACHED = 512, 512
ROUNDS, WARM_UP = 20, 5  # the first ones compile and record

Calls = dict[str, Callable[[], object]]
Row = dict[str, Any]


def copies_of(k: int, n: int, device: str) -> int:
    """Return how many weights are read in turn: of the smallest form, int4, more than the L2 cache holds; all forms of them fit in memory."""
    from lowbit_compiler.pricing import gpu as gpu_timing

    return 1 if device == "cpu" else gpu_timing.that_fit(gpu_timing.copies(n * k // 2, device), 12 * n * k, device)


def in_turn(call: Callable[..., object], *operands: Sequence[Tensor]) -> Callable[[], object]:
    """Return a call whose operands are the first of each sequence, then the second of each, and so on, over and over."""
    following: Iterator[tuple[Tensor, ...]] = itertools.cycle(list(zip(*operands, strict=True)))
    return lambda: call(*next(following))


def operands(rows: int, k: int, n: int, copies: int, device: str) -> tuple[Tensor, list[Tensor]]:
    """Return ``rows`` x ``k`` activations with six outlier columns, as LLM.int8() finds them, and the weights."""
    x = torch.randn(rows, k, device=device, dtype=torch.bfloat16)
    x[:, :: k // 6] *= 20
    return x, [torch.randn(n, k, device=device, dtype=torch.bfloat16) / k**0.5 for _ in range(copies)]


def product_calls(x: Tensor, weights: list[Tensor]) -> Calls:
    """Every way that torch and lowbit have to multiply ``x`` by each of the weights in turn."""
    ops, n = torch.ops.lowbit, weights[0].shape[0]
    codes = [ops.quantize_s8(w) for w in weights]
    packed = [ops.pack_s8(*pair) for pair in codes]
    rotated = [ops.pack_s8(*ops.quantize_s8(ops.rotate(w))) for w in weights]
    packed4 = [ops.pack_s4(*ops.quantize_s4(w, 64), 64) for w in weights]
    lines = [ops.pack_u4(*ops.quantize_u4(w, 32), 32) for w in weights]
    nested = [ops.pack_u4_nested(*ops.quantize_u4_nested(w, 128), 128) for w in weights]
    half = x.half()
    calls: Calls = {
        "bfloat16": in_turn(lambda w: torch.mm(x, w.t()), weights),
        "float16": in_turn(lambda w: torch.mm(half, w.t()), [w.half() for w in weights]),
        "s8s8": in_turn(lambda w: ops.linear_s8s8(x, w, None, n, None), packed),
        "s8s8_rotated": in_turn(lambda w: ops.linear_s8s8_rotated(x, w, None, n, None), rotated),
        "s8s8_columns": in_turn(lambda w: ops.linear_s8s8_columns(x, w, None, n, 6.0, None), packed),
        "s8s8_rows": in_turn(lambda w: ops.linear_s8s8_rows(x, w, None, n, None), packed),
        "fs8": in_turn(lambda w: ops.linear_fs8(x, w, None, n, None), packed),
        "fs4": in_turn(lambda w: ops.linear_fs4(x, w, None, n, 64, None), packed4),
        "fu4": in_turn(lambda w: ops.linear_fu4(x, w, None, n, 32, None), lines),
        "fu4_nested": in_turn(lambda w: ops.linear_fu4_nested(x, w, None, n, 128, None), nested),
        "s8u4_nested": in_turn(lambda w: ops.linear_s8u4_nested(x, w, None, n, 128, None), nested),
    }
    if x.shape[0] > 16 and x.is_cuda:  # what torch._int_mm takes
        q_x, s_x = ops.quantize_s8(x)
        q, scale = ([pair[i] for pair in codes] for i in range(2))
        calls["_int_mm, epilogue"] = in_turn(lambda w, s: (torch._int_mm(q_x, w.t()).float() * s_x * s.t()).to(x.dtype), q, scale)
    return calls


def _bitsandbytes(x: Tensor, weights: list[Tensor]) -> Callable[[], object]:
    bnb: Any = importlib.import_module("bitsandbytes")
    n, k = weights[0].shape
    layers: list[Any] = [bnb.nn.Linear8bitLt(k, n, bias=False, has_fp16_weights=False, threshold=6.0) for _ in weights]
    for layer, w in zip(layers, weights, strict=True):
        layer.weight = bnb.nn.Int8Params(w.half().cpu(), requires_grad=False, has_fp16_weights=False)
        layer.to(x.device)
    half = x.half()
    return in_turn(lambda layer: layer(half), layers)


def _torchao(x: Tensor, weights: list[Tensor]) -> Callable[[], object]:
    ao: Any = importlib.import_module("torchao.quantization")
    n, k = weights[0].shape
    quantized = []
    for w in weights:
        linear = torch.nn.Linear(k, n, bias=False, device="meta")
        linear.weight = torch.nn.Parameter(w, requires_grad=False)
        ao.quantize_(linear, ao.Int8DynamicActivationInt8WeightConfig())
        quantized.append(linear.weight)
    compiled = torch.compile(torch.nn.functional.linear)
    return in_turn(lambda w: compiled(x, w), quantized)


PEERS: dict[str, Callable[[Tensor, list[Tensor]], Callable[[], object]]] = {"bitsandbytes": _bitsandbytes, "torchao": _torchao}
"""Int8 linears that others make of the same weights, by the package that must be installed for them."""


def installed_peers() -> list[str]:
    """Return those of :data:`PEERS` that are here."""
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]


def peer_calls(x: Tensor, weights: list[Tensor]) -> Calls:
    """The products of every peer that is installed and works."""
    calls: Calls = {}
    for name in installed_peers():
        try:
            call = PEERS[name](x, weights)
            call()
            calls[name] = call
        except Exception as error:
            _left_out(name, error)
    return calls


def _left_out(name: str, error: Exception) -> None:
    print(f"  {name} left out: {type(error).__name__}: {str(error)[:80]}")


def seconds_of(calls: Calls, device: str, size: int | None = None) -> dict[str, float]:
    """Return the fastest round of each call, on the GPU's clock; what cannot be recorded is left out.

    ``size``: the bytes that a call reads at least of operands that are read in turn.
    """
    from lowbit_compiler.pricing import gpu as gpu_timing

    timings: Any = importlib.import_module("lowbit_compiler.runtime.timings")
    ready: Calls = {}
    for name, call in calls.items():
        try:
            ready |= gpu_timing.recorded({name: call}, device, size)
        except Exception as error:
            _left_out(name, error)
    rounds = timings.measure(ready, slower=math.inf) if ready else {}
    return {name: min(times) / gpu_timing.calls(device, size) for name, times in rounds.items()}


def product(device: str, rows: int, width: int, peers: bool = False) -> Row:
    """The row of one size in the table of products, or in that of ``peers``.

    Raises:
        RuntimeError: it does not fit in memory. In an op of ours that is no torch.OutOfMemoryError: torch's stable ABI has no such class.
    """
    n = 4 * width
    x, weights = operands(rows, width, n, copies_of(width, n, device), device)
    with torch.no_grad():
        own = product_calls(x, weights)
        calls = {name: own[name] for name in ("bfloat16", "float16", *SHOWN)} | peer_calls(x, weights) if peers else own
        seconds = seconds_of(calls, device, width * n // 2)
    _show(size(rows, width), seconds, "bfloat16")
    return {"seconds": seconds}


def size(rows: int, width: int) -> str:
    """Return the name of a product."""
    return f"{rows} x {width} x {4 * width}"


def softmax(device: str, shape: tuple[int, int]) -> Row:
    """The row of one shape in the table of softmax."""
    x = torch.randn(shape, device=device, dtype=torch.bfloat16)
    calls: Calls = {
        "torch": partial(torch.softmax, x, -1),
        "lowbit": partial(torch.ops.lowbit.softmax, x, -1, 1.0, None, False, None),
    }
    seconds = seconds_of(calls, device)
    _show(f"softmax {shape[0]} x {shape[1]}", seconds, "torch")
    return {"seconds": seconds}


@functools.cache
def large_model(device: str) -> Llama:
    """The model that is timed: on the CPU a small one, to try this script."""
    with torch.device(device):
        net = llama_1b() if device == "cuda" else small_llama()
    return net.eval().requires_grad_(False).to(torch.bfloat16)


def model(device: str, part: str, recipe: str) -> Row:
    """Times a recipe beside Inductor alone: ``part`` is "prefill" of a prompt, or "decode" of one token after a cache, by CUDA graphs."""
    from lowbit_compiler.backend import lowbit

    net = large_model(device)
    prompt = torch.randint(net.embedding.num_embeddings, (1, PROMPT), device=device)
    args, mode = ((prompt,), None) if part == "prefill" else ((prompt[:, :1], net.caches(CACHED)), "reduce-overhead")
    torch._dynamo.reset()
    runs: dict[str, Callable[..., Any]] = {
        "bfloat16": torch.compile(net, mode=mode, fullgraph=True),
        recipe: torch.compile(net, backend=partial(lowbit, mode=mode, options={"recipe": recipe}), fullgraph=True),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for turn in range(ROUNDS + WARM_UP):
            for name, run in runs.items():
                wait(device)
                start = time.perf_counter()
                run(*args)
                wait(device)
                if turn >= WARM_UP:
                    times[name].append(time.perf_counter() - start)
    seconds = {name: median(taken) for name, taken in times.items()}
    _show(part, seconds, "bfloat16")
    return {"seconds": seconds}


def wait(device: str) -> None:
    """Wait until the GPU has nothing to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def _ratios(seconds: dict[str, float], base: str) -> dict[str, float]:
    return {name: seconds[base] / time for name, time in seconds.items() if name != base} if base in seconds else {}


def _show(title: str, seconds: dict[str, float], base: str) -> None:
    if base not in seconds:
        return print(f"{title:<24}{base} was left out")
    ratios = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in _ratios(seconds, base).items())
    print(f"{title:<24}{base} {seconds[base] * 1e6:.1f} us; {ratios}")


def tables(device: str) -> dict[str, list[Step]]:
    """The rows of each table, the most telling first; on the CPU a few of them, to try this script."""
    gpu = device == "cuda"
    widths, rows, shapes = (WIDTHS, ROWS, SOFTMAX_ROWS) if gpu else (WIDTHS[1:2], ROWS[:2], SOFTMAX_ROWS[:1])
    sizes = [(m, width) for width in widths for m in rows]
    models = [(part, recipe) for part in ("decode", "prefill") for recipe in (RECIPES if gpu else RECIPES[:1])]
    peers = sizes if installed_peers() else []
    return {
        "products": [Step(size(*case), partial(product, device, *case), "products", expected=8) for case in sizes],
        "softmax": [Step(f"softmax {a} x {b}", partial(softmax, device, (a, b)), "softmax", expected=3) for a, b in shapes],
        "model": [Step(", ".join(case), partial(model, device, *case), "model", expected=60) for case in models],
        "peers": [Step(size(*case), partial(product, device, *case, peers=True), "peers", expected=10) for case in peers],
    }


def summary(results: Row) -> None:
    """Print the short table: how many times faster than bfloat16."""
    print(f"\n{results['device']}, torch {results['torch']}: times faster than bfloat16")
    print(f"{'rows x K x N':<24}" + "".join(f"{column:>14}" for column in SHOWN))
    for row in results.get("products", ()):
        ratios = _ratios(row["seconds"], "bfloat16")
        print(f"{row['name']:<24}" + "".join(f"{ratios[column]:>14.2f}" if column in ratios else f"{'-':>14}" for column in SHOWN))
    for row in results.get("model", ()):
        print(f"{row['name']:<32}" + "  ".join(f"{ratio:.2f}" for ratio in _ratios(row["seconds"], "bfloat16").values()))
