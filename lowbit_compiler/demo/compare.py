"""`lowbit demo --compare`: Inductor and every recipe on the same questions and tokens, measured in turns.

The contestants take turns within each round because a machine's speed drifts; compare the rows of one table, not two tables.
"""

import time
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.table import Table

from lowbit_compiler.demo import show, text
from lowbit_compiler.demo.engine import WINDOW, Engine
from lowbit_compiler.demo.model import LoadedModel
from lowbit_compiler.demo.run import measure_perplexity, measure_steps, measure_windows
from lowbit_compiler.recipes import WITH_KERNELS
from lowbit_compiler.torch_internals.dynamo import allow_recompilations

ROUNDS = 5
STEPS = 16


@dataclass
class Contestant:
    name: str
    engine: Engine
    weights: int
    compile_seconds: float = 0.0
    answer: str = ""
    first_token: list[float] = field(default_factory=list)
    per_token: list[float] = field(default_factory=list)
    window: list[float] = field(default_factory=list)
    perplexity: float = 0.0


def run_comparison(loaded: LoadedModel, question: str, first: str, console: Console) -> None:
    """Compile all contestants, `first` before the other recipes, measure them in turns, and print one table."""
    names = ["inductor", first, *(name for name in WITH_KERNELS if name != first)]
    allow_recompilations(4 * len(names))  # two graphs each of one and the same forward function
    console.print(f"{2 * len(names)} graphs to compile, about a minute each when the caches are cold")
    ids = text.token_ids(loaded.tokenizer, "english")
    contestants = [_compile(name, loaded, ids, question, console) for name in names]
    with show.counting(console, f"Measuring in turns, {ROUNDS} rounds") as progress:
        progress.update(progress.task_ids[0], total=ROUNDS)
        for _ in range(ROUNDS):
            for one in contestants:
                one.first_token.append(one.engine.answer(question, lambda piece: None).first_token)
                one.per_token += measure_steps(one.engine, STEPS)
                one.window += measure_windows(one.engine, ids, 1)
            progress.advance(progress.task_ids[0])
    for one in contestants:
        one.perplexity = measure_perplexity(one.engine, ids, f"Perplexity of {one.name}", console)
    console.print(_table(contestants, loaded))


def _compile(name: str, loaded: LoadedModel, ids: torch.Tensor, question: str, console: Console) -> Contestant:
    from lowbit_compiler.compile.history import last_report

    floats = show.weight_bytes(loaded.model)
    engine = Engine(loaded, "inductor") if name == "inductor" else Engine(loaded, "lowbit", {"recipe": name})
    start = time.perf_counter()
    with show.waiting(console, f"Compiling {name}"):
        engine.step(0)
        saved = 0 if name == "inductor" else last_report().saved_bytes
        engine.window(ids[:, :WINDOW].clone())
    one = Contestant(name, engine, floats - saved, time.perf_counter() - start)
    pieces: list[str] = []
    engine.answer(question, pieces.append)
    one.answer = " ".join("".join(pieces).split())
    console.print(f"{name}: compiled in {one.compile_seconds:.0f} s, answers: {one.answer}", markup=False)
    return one


def _table(contestants: list[Contestant], loaded: LoadedModel) -> Table:
    base = contestants[0]
    table = Table(title=f"{loaded.dtype}, {torch.get_num_threads()} threads; ms are medians of one interleaved run", title_justify="left")
    for name in ("", "first token ms", "token ms", f"{WINDOW} tokens ms", "perplexity", "against Inductor", "weights MB", "compile s"):
        table.add_column(name, justify="left" if not name else "right")
    for one in contestants:
        table.add_row(
            one.name,
            show.milliseconds(one.first_token),
            show.milliseconds(one.per_token),
            show.milliseconds(one.window),
            f"{one.perplexity:.3f}",
            "" if one is base else f"{one.perplexity / base.perplexity - 1:+.2%}",
            f"{one.weights / 1e6:.0f}",
            f"{one.compile_seconds:.0f}",
        )
    return table
