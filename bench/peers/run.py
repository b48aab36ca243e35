"""lowbit and what one would use instead, on real models: speed, accuracy, compile times and memory, measured in turns.

    python bench/peers/run.py [--columns prefill-512,linear] [--contestants lowbit-int8,inductor-bf16] [--rounds 15] [--cold]
    LOWBIT_ISA=avx2 python bench/peers/run.py ...   # vnni, bf16: everyone held to that instruction set; who cannot be is marked
    python bench/peers/run.py --report      # tables for Markdown and plot of the result files; measures nothing

Every contestant is a process of its own with its own threads, and works only when it is its turn. Ratios are medians over rounds of
the base's time against a contestant's. One that cannot be installed or crashes becomes a row that says why.
"""

import argparse
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
import energy
import report
from columns import COLUMNS
from conductor import Settings, alone, measure
from contestants import CONTESTANTS, ISA, LIMITS, taking_part

from lowbit_compiler.runtime import library

PACKAGES = ("torchao", "openvino", "nncf", "onnxruntime", "bitsandbytes", "llama-cpp-python", "transformers")


def main() -> None:
    """Measure the columns one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", default=",".join(COLUMNS), help="default: all of %(default)s")
    parser.add_argument(
        "--cases", default="", help="of the column linear: only those whose name ends in one of these, as in 576 x 1536,960 x 576"
    )
    parser.add_argument("--contestants", default="", help=f"of {', '.join(CONTESTANTS)}; the base always takes part")
    parser.add_argument("--rounds", type=int, default=15, help="0 only compiles, so that a later run is quick")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=10, help="contestants in memory at a time, about 1 GB each")
    parser.add_argument("--no-accuracy", action="store_true")
    parser.add_argument("--cold", action="store_true", help="compile each contestant with empty caches first, and report the seconds")
    parser.add_argument("--dry", action="store_true", help="write no file")
    parser.add_argument("--report", action="store_true", help="only show the result files")
    args = parser.parse_args()
    if ISA and ISA not in LIMITS:
        sys.exit(f"LOWBIT_ISA={ISA}: expected one that others can be held to as well, {', '.join(LIMITS)}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    columns, asked = _chosen(args.columns, COLUMNS), _chosen(args.contestants, CONTESTANTS)
    settings = Settings(args.rounds, args.threads, args.rounds > 0 and not args.no_accuracy, args.cold, args.at_once)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # children are ended either way
    try:
        with alone():
            for column in [] if args.report else columns:
                _column(column, args.cases, asked, settings, args.dry, console)
    except KeyboardInterrupt:
        console.print("stopped; columns that were complete are written")
        sys.exit(130)
    if not args.dry:
        isa = library.status().isa
        results = report.load(common.RESULTS, isa)
        report.plot(results, common.RESULTS / f"peers_{isa}.png")
        if args.report:
            for text in (report.markdown(results), report.linears(results)):
                console.print(text + "\n", soft_wrap=True, markup=False, highlight=False)


def _chosen(text: str, known: dict[str, object] | dict[str, tuple[object, ...]]) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def _column(column: str, ending: str, asked: list[str], settings: Settings, dry: bool, console: Console) -> None:
    """Measure a column, print its table and write its file."""
    cases = [case for case in COLUMNS[column] if case.name.endswith(tuple(ending.split(",")))]
    names = taking_part(cases[0].kind, asked, settings.rounds > 0) if cases else []
    if not names:
        console.print(f"{column}: nobody takes part")
        return
    progress = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True)
    with progress:
        task = progress.add_task(column, total=None)
        rows = measure(column, cases, names, settings, lambda text: progress.update(task, description=text))
    meter = energy.meter()
    about = common.about(
        threads=settings.threads,
        rounds=settings.rounds,
        statistic="medians over rounds",
        energy=meter if isinstance(meter, str) else "of the whole machine, whoever used it",
        versions=_versions(),
    )
    result = {"about": about, "column": column, "base": names[0], "rows": rows}
    console.print(report.table(result))
    console.print(report.lead(rows), markup=False, highlight=False)
    if any("unlimited" in row for row in rows):
        console.print("* takes the best instruction set of the machine, whatever LOWBIT_ISA says")
    if not dry and settings.rounds:
        console.print(f"written to {common.write(f'peers_{column}_{library.status().isa}.json', result)}")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


if __name__ == "__main__":
    main()
