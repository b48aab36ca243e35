"""Draw bench/results/attention.png from attention.json: times as fast as torch, by number of keys.

python bench/attention/plot.py
"""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    """Read the result file, write the picture."""
    data = json.loads((RESULTS / "attention.json").read_text())
    rows = data["rows"]
    dtypes = list(dict.fromkeys(r["dtype"] for r in rows))
    figure, axes = plt.subplots(
        len(dtypes), 2, figsize=(9, 3.4 * len(dtypes)), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for line, dtype in zip(axes, dtypes, strict=True):
        for axis, kind in zip(line, ("prefill", "decode"), strict=True):
            for heads, width in dict.fromkeys((r["heads"], r["width"]) for r in rows):
                chosen = [r for r in rows if (r["dtype"], r["kind"], r["heads"], r["width"]) == (dtype, kind, heads, width)]
                axis.plot([r["keys"] for r in chosen], [r["ratio"] for r in chosen], marker="o", label=f"{heads} heads of {width}")
            axis.axhline(1, color="grey", linewidth=1)
            axis.set(title=f"{kind}, {dtype}", xscale="log")
            axis.set_xticks([r["keys"] for r in chosen], [str(r["keys"]) for r in chosen], minor=False)
            axis.minorticks_off()
    axes[0][0].set_ylim(0, 1.05 * max(r["ratio"] for r in rows))
    axes[0][0].legend(fontsize=8)
    figure.supxlabel("keys")
    figure.supylabel("times as fast as torch's flash attention")
    about = data["about"]
    figure.suptitle(
        f"lowbit::sdpa, geometric mean {about['geometric mean']:.2f} ({about['machine']}, torch {about['torch']}, {about['date']})",
        fontsize=10,
    )
    figure.savefig(RESULTS / "attention.png", dpi=110)


if __name__ == "__main__":
    main()
