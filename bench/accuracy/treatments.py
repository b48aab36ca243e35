"""Treatments of outliers and weight formats compared on SmolLM2-135M-Instruct: perplexity and divergence against float32.

    python bench/accuracy/treatments.py [--tokens 6144] [--dtype float32] [--only WORD ...] [--threads 1] [--at-most N]

Each scheme is simulated with the reference functions (bench/accuracy/schemes.py); recipes.py beside it measures compiled models.
The divergence is the mean Kullback-Leibler divergence of the next-token distribution from the float32 model's on the first windows
of each text: it is what the change of perplexity is on average, with a tenth of its noise.
"""

import argparse
import datetime
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from schemes import Map, Scheme, Split, schemes
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.demo import model, text

WINDOW = 512
DIVERGENCE_WINDOWS = 2  # of each text; their float32 distributions are held in memory
Losses = dict[str, Tensor]  # text -> negative log likelihood of every token but each window's first
Row = dict[str, str | float]


class Treated(nn.Module):
    """A linear whose operands went through a scheme's maps."""

    def __init__(self, linear: nn.Linear, x: Map | None, w: Map | None) -> None:
        super().__init__()
        self.x, self.bias = x, linear.bias
        self.weight = linear.weight.detach().float() if w is None else w(linear.weight.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in float32; one rounding to the dtype of ``x``."""
        rows = x.reshape(-1, x.shape[-1]).float()
        y = (rows if self.x is None else self.x(rows)) @ self.weight.t()
        return (y if self.bias is None else y + self.bias.float()).to(x.dtype).reshape(*x.shape[:-1], -1)


@contextmanager
def applied(network: nn.Module, scheme: Scheme) -> Iterator[None]:
    """Replace the linears of ``network`` while the scheme is measured."""
    before = []
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            x, w = (scheme.head_x, scheme.head_w) if name == "lm_head" else (scheme.x, scheme.w)
            if isinstance(child, nn.Linear) and (x or w):
                before.append((parent, name, child))
                setattr(parent, name, Treated(child, x, w))
    try:
        yield
    finally:
        for parent, name, child in before:
            setattr(parent, name, child)


class Measure:
    """Runs a model over the texts; the first run is what the others are compared with."""

    def __init__(self, ids: dict[str, Tensor]) -> None:
        self.windows = {name: tokens.reshape(-1, WINDOW) for name, tokens in ids.items()}
        self.float_losses: Losses = {}
        self.float_logs: dict[str, list[Tensor]] = {name: [] for name in ids}

    def run(self, network: nn.Module, group: str, name: str, progress: Progress) -> Row:
        """Return one row of the table."""
        losses: Losses = {}
        row: Row = {"group": group, "scheme": name}
        first = not self.float_losses
        task = progress.add_task(name, total=sum(len(w) for w in self.windows.values()))
        for source, windows in self.windows.items():
            parts, divergences = [], []
            for i, window in enumerate(windows):
                logs = torch.log_softmax(network(window[None], use_cache=False).logits[0].float(), -1)
                parts.append(-logs[:-1].gather(1, window[1:, None]).double())
                if first and i < DIVERGENCE_WINDOWS:
                    self.float_logs[source].append(logs)
                elif i < DIVERGENCE_WINDOWS:
                    target = self.float_logs[source][i]
                    divergences.append((target.exp() * (target - logs)).sum(-1).mean())
                progress.advance(task)
            losses[source] = torch.cat(parts)
            change = losses[source] - self.float_losses.get(source, losses[source])
            row[f"{source} perplexity"] = math.exp(losses[source].mean())
            row[f"{source} change"] = math.expm1(change.mean())
            row[f"{source} standard error"] = float(change.std()) / len(change) ** 0.5
            row[f"{source} divergence"] = float(torch.stack(divergences).mean()) if divergences else 0.0
        progress.remove_task(task)
        if first:
            self.float_losses = losses
        return row


def table(rows: list[Row], title: str) -> Table:
    """Return the rows as they are printed; everything in percent."""
    result = Table(title=title, title_justify="left")
    result.add_column("")
    for source in text.TEXTS:
        result.add_column(source, justify="right", no_wrap=True)
        result.add_column("diverg.", justify="right")
    result.add_column("exact", justify="right")
    for before, row in zip([rows[0], *rows], rows, strict=False):
        if row["group"] != before["group"]:
            result.add_section()
        cells = []
        for source in text.TEXTS:
            change, error = 100 * float(row[f"{source} change"]), 100 * float(row[f"{source} standard error"])
            cells += [f"{change:+.2f} ±{error:.2f}", f"{100 * float(row[f'{source} divergence']):.3f}"]
        result.add_row(str(row["scheme"]), *cells, f"{100 * float(row['exact']):.2f}" if "exact" in row else "")
    return result


def main() -> None:
    """Measure, print one table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=text.TOKENS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the model; the comparison is with float32")
    parser.add_argument("--only", nargs="*", default=[], help="schemes whose name contains one of these; no result file is written")
    parser.add_argument("--at-most", type=int, help="schemes in this run; the next run goes on where it stopped")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    console = Console()
    loaded = model.load(torch.float32, console)
    ids = {name: text.token_ids(loaded.tokenizer, name, options.tokens // WINDOW * WINDOW) for name in text.TEXTS}
    chosen = [s for s in schemes()[1:] if not options.only or any(word in s.name for word in options.only)]
    rows = [] if options.only else resumed(options)
    missing = [s for s in chosen if s.name not in {row["scheme"] for row in rows}]
    measure, names = Measure(ids), [scheme.name for scheme in chosen]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("schemes", total=len(missing[: options.at_most]) + 1)
        fixed = [measure.run(loaded.model, "", "float32", progress)]
        if options.dtype != "float32":
            loaded = model.load(torch.bfloat16)
            fixed.append(measure.run(loaded.model, "", options.dtype, progress))
        progress.advance(task)
        rows = fixed + [row for row in rows if row["scheme"] in names]
        for scheme in missing[: options.at_most]:
            with applied(loaded.model, scheme):
                row = measure.run(loaded.model, scheme.group, scheme.name, progress)
            if isinstance(scheme.x, Split):
                row["exact"] = scheme.x.counts["exact"] / scheme.x.counts["all"]
            rows.append(row)
            rows[len(fixed) :] = sorted(rows[len(fixed) :], key=lambda r: names.index(str(r["scheme"])))
            if not options.only:
                write(rows, options, len(rows) < len(fixed) + len(chosen))
            progress.advance(task)
    base = ", ".join(f"{source} {float(rows[0][f'{source} perplexity']):.3f}" for source in text.TEXTS)
    console.print(table(rows, f"perplexity against float32 ({base}), percent; {options.tokens} tokens of each text, {options.dtype}"))


def result_path(options: argparse.Namespace) -> Path:
    """Return the file of this dtype's results."""
    return common.RESULTS / ("treatments.json" if options.dtype == "float32" else f"treatments_{options.dtype}.json")


def setting(options: argparse.Namespace) -> dict[str, object]:
    """Return what must be equal for rows of two runs to stand in one table."""
    about = common.about(transformers=transformers.__version__, model=model.FILE, dtype=options.dtype, tokens=options.tokens)
    return {key: value for key, value in about.items() if key != "date"}


def resumed(options: argparse.Namespace) -> list[Row]:
    """Return the rows of an unfinished run of the same setting."""
    path = result_path(options)
    if not path.exists():
        return []
    before = json.loads(path.read_text())
    same = before["unfinished"] and before["setting"] == setting(options)
    rows: list[Row] = before["rows"] if same else []
    return rows


def write(rows: list[Row], options: argparse.Namespace, unfinished: bool) -> None:
    """Write the result file."""
    content = {"date": datetime.date.today().isoformat(), "setting": setting(options), "unfinished": unfinished, "rows": rows}
    common.write(result_path(options).name, content)


if __name__ == "__main__":
    main()
