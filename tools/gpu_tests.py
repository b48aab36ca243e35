"""What must hold on a GPU, as plain functions: no test framework is needed. Each yields what is wrong; nothing, where all is well."""

import functools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from gpu_models import small_llama
from torch import Tensor, nn

ROWS = (1, 8, 9, 33, 300)
WIDTHS = ((576, 200), (2624, 64), (77, 37), (640, 3200))  # K, N; the last has tiles of 128 x 128 at 513 rows
MANY_ROWS, LARGE = 513, 1000
LINES = ("u4_nested", "u4", "u3", "u5", "u6", "u8")  # formats of codes on lines; of a large weight the first two: plain torch is slow there
ON_LINES, FIXED = tuple(f"linear_f{name}" for name in LINES), 2**-15  # the CPU multiplies few rows as 16-bit integers
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
COSINE = 0.99
MODES = (None, "reduce-overhead")

Calls = dict[str, tuple[Any, ...]]


@functools.cache
def weights(k: int, n: int) -> Calls:
    """A weight [n, k], and what the ops that take one quantized are given: packed by the name of the format; quantizing takes longer than all else."""
    ops = torch.ops.lowbit
    w = torch.randn(n, k) / k**0.5
    turned, q8, q4 = ops.rotate(w), ops.quantize_s8(w), ops.quantize_s4(w, 64)
    lines = {name: getattr(ops, f"quantize_{name}")(w, 32) for name in LINES[: len(LINES) if n < LARGE else 2]}
    return {
        "float": (w,),
        "parts": (q8, q4, lines["u4"]),
        "packed": (ops.pack_s8(*q8), ops.pack_s8(*ops.quantize_s8(turned)), ops.pack_s4(*q4, 64)),
        "turned": (ops.pack_u4_nested(*ops.quantize_u4_nested(turned, 128), 128),),
        **{name: (getattr(ops, f"pack_{name}")(*parts, 32),) for name, parts in lines.items()},
    }


def op_calls(rows: int, k: int, n: int, dtype: torch.dtype) -> Calls:
    """One call of every op, on the CPU; the weights are quantized by the ops themselves."""
    made = weights(k, n)
    (w,), (q8, q4, lines), (packed, rotated, packed4) = made["float"], made["parts"], made["packed"]
    x, bias = torch.randn(rows, k), torch.randn(n)
    x[:, 7] *= 40
    x = x.to(dtype)
    return {
        "quantize_s8": (x,),
        "dequantize_s8": (*q8, dtype),
        "quantize_s4": (w, 64),
        "dequantize_s4": (*q4, 64, dtype),
        "rotate": (x,),
        "split_columns": (x, 6.0),
        "split_rows": (x,),
        "pack_s8": q8,
        "pack_s4": (*q4, 64),
        "pack_u4": (*lines, 32),
        "linear_s8s8": (x, packed, bias, n, None),
        "linear_s8s8_rotated": (x, rotated, bias, n, None),
        "linear_s8s8_columns": (x, packed, bias, n, 6.0, None),
        "linear_s8s8_rows": (x, packed, bias, n, None),
        "linear_s8u4_nested": (x, *made["u4_nested"], bias, n, 32, None),
        "linear_s8u4_nested_rotated": (x, *made["turned"], bias, n, 128, None),
        "linear_fs8": (x, packed, bias, n, None),
        "linear_fs4": (x, packed4, bias, n, 64, None),
        **{f"linear_f{name}": (x, *made[name], bias, n, 32, None) for name in LINES if name in made},
        "softmax": (x, -1, 0.5, None, False, None),
    }


def _moved(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _results(op: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    made = getattr(torch.ops.lowbit, op)(*args)
    return (made,) if isinstance(made, Tensor) else tuple(made)


def _agree(got: Tensor, want: Tensor, k: int = 0, least: float = 2**-18) -> bool:
    """Whether they differ by a rounding, and by what ``k`` sums in another order make of float32, or by ``least``."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if not want.is_floating_point():
        return torch.equal(got, want)
    error, size = (got.double() - want.double()).abs().max(), want.double().abs().max()
    return bool(error <= size * max(torch.finfo(want.dtype).eps, least, k * 2**-24))


def _wrong(calls: Calls, holds: Callable[[str, tuple[Any, ...]], bool]) -> Iterator[str]:
    """Yield the ops for which ``holds`` is false, or raises: one that fails does not hide the others."""
    for op, args in calls.items():
        try:
            if not holds(op, args):
                yield op
        except Exception as error:
            yield f"{op} ({type(error).__name__}: {error})"


def ops_agree(device: str) -> Iterator[str]:
    """Every op gives the CPU's integers, and its floats within a rounding."""

    def agrees(op: str, args: tuple[Any, ...]) -> bool:
        pairs = zip(_results(op, tuple(_moved(a, device) for a in args)), _results(op, args), strict=True)
        least = FIXED if op in ON_LINES else 2**-18
        return all(_agree(got.cpu(), want, k, least) for got, want in pairs)

    for k, n in WIDTHS:
        for rows in (*ROWS, MANY_ROWS) if n > LARGE else ROWS:
            for dtype in DTYPES:
                for op in _wrong(op_calls(rows, k, n, dtype), agrees):
                    yield f"{op} of {rows} x {k} x {n} in {dtype}"


def opcheck(device: str) -> Iterator[str]:
    """Schemas, shape functions and compilation of each op are consistent."""

    def consistent(op: str, args: tuple[Any, ...]) -> bool:
        torch.library.opcheck(getattr(torch.ops.lowbit, op).default, tuple(_moved(a, device) for a in args))
        return True

    yield from _wrong(op_calls(3, 200, 40, torch.bfloat16), consistent)


def graphs_record(device: str) -> Iterator[str]:
    """A CUDA graph records each op, and gives new results for new inputs."""
    cuda: Any = torch.cuda  # in parts untyped

    def records(op: str, args: tuple[Any, ...]) -> bool:
        moved = tuple(_moved(a, device) for a in args)
        _results(op, moved)
        torch.cuda.synchronize()
        graph, side = torch.cuda.CUDAGraph(), cuda.Stream()
        with cuda.stream(side), torch.cuda.graph(graph, stream=side):  # the outer one puts the stream back where recording fails
            recorded = _results(op, moved)
        if moved[0].is_floating_point():
            moved[0].mul_(-0.5)
        graph.replay()
        torch.cuda.synchronize()
        return all(torch.equal(got, want) for got, want in zip(recorded, _results(op, moved), strict=True))

    yield from _wrong(op_calls(9, 576, 200, torch.bfloat16), records)


def streams_are_respected(device: str) -> Iterator[str]:
    """Ops run on the current stream, after what was started there before."""
    cuda: Any = torch.cuda  # in parts untyped
    side = cuda.Stream()

    def respects(op: str, args: tuple[Any, ...]) -> bool:
        moved = tuple(_moved(a, device) for a in args)
        want = _results(op, moved)
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            late = torch.zeros_like(moved[0])
            cuda._sleep(20_000_000)
            late.copy_(moved[0])
            got = _results(op, (late, *moved[1:]))
        side.synchronize()
        return all(torch.equal(a, b) for a, b in zip(got, want, strict=True))

    yield from _wrong(op_calls(300, 576, 200, torch.bfloat16), respects)


def devices_are_respected(device: str) -> Iterator[str]:
    """Ops run where their tensors are, whatever the current device is."""
    other = f"cuda:{torch.cuda.device_count() - 1}"
    if other == "cuda:0":
        print("      one GPU: the second-device check is skipped")
        return

    def respects(op: str, args: tuple[Any, ...]) -> bool:
        here, there = (_results(op, tuple(_moved(a, where) for a in args)) for where in ("cuda:0", other))
        return all(b.device == torch.device(other) and torch.equal(a.cpu(), b.cpu()) for a, b in zip(here, there, strict=True))

    yield from _wrong(op_calls(9, 576, 200, torch.bfloat16), respects)


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "llama": lambda: (small_llama(), torch.randint(1000, (1, 64))),
    "mlp": lambda: (nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)), torch.randn(256, 1024)),
}
"""The models that every recipe compiles, with their input."""


def compiles(name: str, recipe: str, mode: str | None, device: str) -> Iterator[str]:
    """A recipe compiles a whole graph, with or without CUDA graphs, whose results are those of the float model but for rounding."""
    from lowbit_compiler.backend import lowbit  # nothing is installed, so no entry point finds "lowbit" by name
    from lowbit_compiler.compile.history import last_report

    torch.manual_seed(0)
    model, x = MODELS[name]()
    net = model.eval().requires_grad_(False).to(device, torch.bfloat16)
    inputs = x.to(device, torch.bfloat16) if x.is_floating_point() else x.to(device)
    torch._dynamo.reset()
    run = torch.compile(net, backend=partial(lowbit, mode=mode, options={"recipe": recipe, "plan": "always"}), fullgraph=True)
    with torch.no_grad():
        want = net(inputs).double().flatten()
        results = [run(inputs).double().flatten() for _ in range(4)]  # CUDA graphs record in the second, replay from the third
    cosine = min(float(nn.functional.cosine_similarity(y, want, 0)) for y in results)
    if last_report().fallback or not cosine > COSINE:
        yield f"cosine {cosine:.5f}, fallback {last_report().fallback}"


Check = Callable[[str], Iterator[str]]
CHECKS: tuple[Check, ...] = (ops_agree, opcheck)
GPU_CHECKS: tuple[Check, ...] = (graphs_record, streams_are_respected, devices_are_respected)


def compile_checks(recipes: Iterable[str]) -> dict[str, Check]:
    """One check for each model, recipe and mode, by name; the most telling first."""
    cases = [(name, recipe, mode) for mode in reversed(MODES) for name in MODELS for recipe in recipes]
    return {f"{name}, {recipe}, {mode or 'default'}": partial(compiles, name, recipe, mode) for name, recipe, mode in cases}
