"""Losses by step: in the terminal, and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rich.text import Text

from lowbit_compiler.runtime.files import staged

MARKS = (("o", "cyan"), ("x", "yellow"))
BOTH = ("*", "green")
HEIGHT, WIDTH = 12, 60
WINDOW = 8
"""Steps of a mean: a batch is small, and its loss jumps."""
Curves = Mapping[str, Sequence[float]]


def smooth(curve: Sequence[float]) -> list[float]:
    """Return the mean of the last ``WINDOW`` steps, at each step."""
    return [fmean(curve[max(0, end - WINDOW) : end]) for end in range(1, len(curve) + 1)]


def chart(curves: Curves) -> Text:
    """Return two curves of one length as text, a mark where either passes and another where both do."""
    lines = [smooth(curve) for curve in curves.values()]
    most, steps = max(map(max, lines)), len(lines[0])
    width = min(WIDTH, steps)
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    for line, mark in zip(lines, MARKS, strict=True):
        for column in range(width):
            part = line[column * steps // width : (column + 1) * steps // width]
            at = round((1 - fmean(part) / most) * (HEIGHT - 1)), column
            cells[at] = BOTH if at in cells else mark
    text = Text()
    for row in range(HEIGHT):
        text.append(f"{most * (1 - row / (HEIGHT - 1)):5.2f} |")
        for column in range(width):
            text.append(*cells.get((row, column), (" ", "")))
        text.append("\n")
    text.append(f"{'':6}+{'-' * width}\n{'':7}loss over {steps} steps: ")
    for name, mark in zip([*curves, "both"], [*MARKS, BOTH], strict=True):
        text.append(f"  {mark[0]} {name}", mark[1])
    return text


def picture(curves: Curves, title: str, path: Path) -> None:
    """Draw the curves to a PNG file, whole or not at all; raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for (name, curve), color in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
        axis.plot(curve, color=color, alpha=0.25)
        axis.plot(smooth(curve), color=color, label=name)
    axis.set(title=title, xlabel="step", ylabel=f"loss, and its mean over {WINDOW} steps", ylim=(0, None))
    axis.legend()
    with staged(path) as beside:
        figure.savefig(beside, dpi=150)
