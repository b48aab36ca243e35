"""What `lowbit demo` does, from the top down: load, compile and answer, show the sites, compile the window, measure."""

import time
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lowbit_compiler.demo import model, show, text
from lowbit_compiler.demo.engine import WINDOW, Answer, Engine
from lowbit_compiler.demo.perplexity import perplexity
from lowbit_compiler.errors import OptionError
from lowbit_compiler.options import parse

# Without its second sentence the float32 model itself prefers "The" to "L" by only 0.08 logits, and what comes out is decided by
# rounding noise; with it by 1.5.
QUESTION = "What is the capital of France? Answer in one sentence."
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
EXTRA_STEPS = 32  # more tokens than an answer has, so that the time of one is a steady median


def run(
    question: str = QUESTION,
    recipe: str = "int8",
    dtype: str = "bfloat16",
    compare: bool = False,
    all_sites: bool = False,
    console: Console | None = None,
) -> None:
    """Run the demo; with `compare`, every recipe and Inductor in one interleaved run instead."""
    console = console or Console(highlight=False)
    parse({"recipe": recipe})  # a bad recipe or environment is said before anything is loaded
    if dtype not in DTYPES:
        raise OptionError(f"--dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    start = time.perf_counter()
    loaded = model.load(DTYPES[dtype], console)
    size = sum(p.numel() for p in loaded.model.parameters()) / 1e6
    console.print(f"SmolLM2-135M-Instruct: {size:.0f} M parameters in {dtype}, loaded in {time.perf_counter() - start:.1f} s")
    if compare:
        from lowbit_compiler.demo.compare import run_comparison

        run_comparison(loaded, question, recipe, console)
        return
    console.print(f'[bold]model = torch.compile(model, backend="lowbit", options={{"recipe": "{recipe}"}})[/bold]', end="\n\n")
    engine = Engine(loaded, "lowbit", {"recipe": recipe})
    answer = _answer(engine, question, console)
    _sites(loaded.model, all_sites, console)
    _accuracy(loaded, engine, answer, console)


def _answer(engine: Engine, question: str, console: Console) -> Answer:
    start = time.perf_counter()
    with show.waiting(console, "Compiling the one-token graph (about a minute when the caches are cold)"):
        engine.step(0)
    console.print(f"compiled in {time.perf_counter() - start:.1f} s")
    console.print(f"[bold]Q[/bold] {question}\n[bold]A[/bold] ", end="")
    answer = engine.answer(question, lambda piece: console.print(piece, end="", markup=False, soft_wrap=True))
    console.print()
    per_token = measure_steps(engine, EXTRA_STEPS)
    console.print(
        f"first token after {answer.first_token * 1e3:.0f} ms ({answer.prompt_tokens} tokens of prompt, one by one), "
        f"then {show.milliseconds(per_token)} ms a token\n"
    )
    return answer


def _sites(net: torch.nn.Module, all_sites: bool, console: Console) -> None:
    from lowbit_compiler.compile.history import last_report

    report = last_report()
    console.print(report if all_sites else show.sites(report))
    if report.fallback:
        console.print(f"[bold red]the graph was left in float:[/bold red] {report.fallback}")
    floats = show.weight_bytes(net)
    console.print(f"weights: {floats / 1e6:.0f} MB -> {(floats - report.saved_bytes) / 1e6:.0f} MB\n")


def _accuracy(loaded: model.LoadedModel, engine: Engine, answer: Answer, console: Console) -> None:
    ids = text.token_ids(loaded.tokenizer, "english")
    before = measure_perplexity(Engine(loaded, "eager"), ids, f"Perplexity of the float model on {ids.shape[1]} tokens", console)
    with show.waiting(console, f"Compiling the graph of {WINDOW} tokens"):
        engine.window(ids[:, :WINDOW].clone())
    after = measure_perplexity(engine, ids, f"Perplexity of the compiled model on {ids.shape[1]} tokens", console)
    console.print(
        f"perplexity on {ids.shape[1]} tokens of English: {before:.3f} eager {loaded.dtype} -> {after:.3f} ({after / before - 1:+.2%})"
    )
    console.print(f"{WINDOW} tokens at once: {show.milliseconds(measure_windows(engine, ids, 5))} ms")


def measure_steps(engine: Engine, steps: int) -> list[float]:
    """Seconds of each of `steps` one-token steps from an empty cache."""
    engine.reset()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        engine.step(17)
        times.append(time.perf_counter() - start)
    return times


def measure_windows(engine: Engine, ids: Tensor, rounds: int) -> list[float]:
    """Seconds of each of `rounds` forward passes over one window."""
    piece, times = ids[:, :WINDOW].clone(), []
    for _ in range(rounds):
        start = time.perf_counter()
        engine.window(piece)
        times.append(time.perf_counter() - start)
    return times


def measure_perplexity(engine: Engine, ids: Tensor, text: str, console: Console) -> float:
    """Perplexity over all windows, with a bar."""
    with show.counting(console, text) as progress:

        def moved(done: int, total: int) -> Any:
            progress.update(progress.task_ids[0], completed=done, total=total)

        return perplexity(engine.window, ids, WINDOW, moved)
