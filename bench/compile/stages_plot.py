"""Draw bench/results/compile_stages_<model>.png from the result files of stages.py: seconds by stage, for each commit and start.

python bench/compile/stages_plot.py
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

CLOCKS = {"processor": "processor's time", "seconds": "wall clock"}


def draw(found: dict[str, Any], path: Path) -> None:
    """Write the picture of one result file: a bar for each run, in the order of the runs, by both clocks."""
    runs = found["runs"]
    figure, axes = plt.subplots(len(CLOCKS), 2, figsize=(10, 1.6 + 1.1 * len(runs) * len(CLOCKS)), squeeze=False, layout="constrained")
    for line, (clock, text) in zip(axes, CLOCKS.items(), strict=True):
        for axis, start in zip(line, ("cold", "warm"), strict=True):
            stages = list(dict.fromkeys(stage for run in runs.values() for stage in run[start][clock]))
            bars = {commit: run[start][clock] for commit, run in runs.items()}
            ends = common.stacked(axis, bars, {stage: f"C{number}" for number, stage in enumerate(stages)})
            for commit, total in zip(runs, ends, strict=True):
                axis.text(total, commit, f" {total:.1f}", va="center")
            axis.set(title=f"{start}, {text}", xlabel="s", xlim=(0, 1.15 * max(ends)))
            axis.invert_yaxis()
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    about = found["about"]
    figure.suptitle(f"first call of {about['model']}, {about['tokens']} token: {about['machine']}, torch {about['torch']}, {about['date']}")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw every result file of stages.py."""
    for file in common.RESULTS.glob("compile_stages_*.json"):
        draw(json.loads(file.read_text()), file.with_suffix(".png"))


if __name__ == "__main__":
    main()
