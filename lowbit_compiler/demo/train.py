"""What `lowbit demo --train` does: a sentence encoder learns in float and with a recipe, in turns, and both are asked."""

import importlib.util
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from lowbit_compiler.demo import curve, show
from lowbit_compiler.demo.finetune import LENGTH, STEPS, Task, Training, compiled
from lowbit_compiler.demo.sentences import TOPICS
from lowbit_compiler.errors import OptionError
from lowbit_compiler.options import parse

RECIPE = "int4-training"
FLOAT = "float32"
PICTURE = Path("lowbit_train.png")
SENTENCES = (
    "How many days are there between two dates?",
    "Draw a circle with a red pen.",
    "Send a message with an attachment to several people.",
    "Compress a folder into one file.",
    "Wait until several tasks are done.",
    "Is this address in that network?",
    "What is the median of a list of numbers?",
)


def run(sentences: Sequence[str] = SENTENCES, recipe: str = RECIPE, steps: int = STEPS, console: Console | None = None) -> None:
    """Train, draw both losses, and say what ``sentences`` are about; at a terminal, those that are typed too.

    Raises OptionError for a recipe that does not train, and where matplotlib is missing.
    """
    console = console or Console(highlight=False)
    if parse({"recipe": recipe}).training is None:
        raise OptionError(f"--recipe: with --train it must be one that trains, such as {RECIPE!r}, got {recipe!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError("--train draws with matplotlib: pip install matplotlib")
    with show.waiting(console, "Reading the sentence encoder and Python's documentation"):
        task = Task()
    size = sum(parameter.numel() for parameter in task.encoder.parameters()) / 1e6
    console.print(
        f"all-MiniLM-L6-v2, {size:.0f} M parameters, learns which of {len(TOPICS)} parts of Python's library a paragraph is about: "
        f"{len(task.learned.ids)} paragraphs to learn from, {len(task.held.ids)} others to be asked about, {LENGTH} tokens of each",
        soft_wrap=True,
    )
    line = f'model = torch.compile(model, backend="lowbit", options={{"recipe": "{recipe}"}})'
    console.print(line, style="bold", end="\n\n", soft_wrap=True)
    trainings = _train(task, recipe, steps, console)
    _results(task, trainings, console)
    for asked in _asked(sentences, console):
        console.print(_answers(task, trainings, asked))


def _train(task: Task, recipe: str, steps: int, console: Console) -> dict[str, Training]:
    """Take the steps in turns, on the same batches, because a machine's speed drifts."""
    plain, low = task.student(0), task.student(0)
    trainings = {FLOAT: Training(plain, plain, steps), recipe: Training(low, compiled(low, recipe), steps)}
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    with show.counting(console, "Training") as progress:
        progress.update(progress.task_ids[0], total=steps)
        for batch in task.batches(0, steps):
            for name, one in trainings.items():
                start = time.perf_counter()
                one.step(batch)
                seconds[name].append(time.perf_counter() - start)
            now = ", ".join(f"{name} {fmean(one.curve[-curve.WINDOW :]):.2f}" for name, one in trainings.items())
            progress.update(progress.task_ids[0], advance=1, description=f"Training, loss {now}")
    console.print("ms a step: " + ", ".join(f"{name} {show.milliseconds(times)}" for name, times in seconds.items()))
    return trainings


def _results(task: Task, trainings: Mapping[str, Training], console: Console) -> None:
    with show.waiting(console, f"Asking about {len(task.held.ids)} paragraphs"):
        right = ", ".join(f"{name} {100 * one.accuracy(task.held):.1f} %" for name, one in trainings.items())
    curves = {name: one.curve for name, one in trainings.items()}
    curve.picture(curves, f"held-out paragraphs told right: {right}", PICTURE)
    console.print(curve.chart(curves))
    console.print(f"held-out paragraphs told right: {right}\nthe picture: {PICTURE.resolve()}\n", soft_wrap=True)


def _asked(sentences: Sequence[str], console: Console) -> Iterator[Sequence[str]]:
    """Yield the sentences, then each that is typed, until a line is empty."""
    yield sentences
    while sys.stdin.isatty() and console.is_terminal:
        try:
            typed = console.input("[bold]A sentence of yours[/bold] (an empty line ends): ").strip()
        except EOFError:
            return
        if not typed:
            return
        yield [typed]


def _answers(task: Task, trainings: Mapping[str, Training], sentences: Sequence[str]) -> Table:
    table = Table("what it is about, and how sure it is", *trainings, box=None, pad_edge=False)
    tokens, names = task.tokens(sentences), list(TOPICS)
    likely = [one.logits(tokens).softmax(1).max(1) for one in trainings.values()]
    for i, sentence in enumerate(sentences):
        table.add_row(sentence, *(f"{names[int(each.indices[i])]} {float(each.values[i]):.2f}" for each in likely))
    return table
