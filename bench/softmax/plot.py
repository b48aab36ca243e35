"""Draw bench/results/softmax.png from softmax.json: one row of n floats, nanoseconds per float, for each number of threads.

python bench/softmax/plot.py
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parents[1] / "results"
STYLES = {
    "torch": ("tab:gray", "-"),
    "torch out": ("tab:gray", "--"),
    "inductor": ("tab:orange", "-"),
    "lowbit": ("tab:blue", "-"),
    "three-pass": ("tab:green", "--"),
    "two-pass": ("tab:red", "--"),
}


def main() -> None:
    """Read the results and write the picture."""
    found = json.loads((RESULTS / "softmax.json").read_text())
    rows = [row for row in found["rows"] if len(row["shape"]) == 1]
    threads = sorted({row["threads"] for row in rows})
    figure, axes = plt.subplots(1, len(threads), figsize=(6 * len(threads), 4.5), sharey=True, squeeze=False)
    for axis, count in zip(axes[0], threads, strict=True):
        mine = [row for row in rows if row["threads"] == count]
        sizes = [row["shape"][0] for row in mine]
        for name, (color, line) in STYLES.items():
            if all(name in row["us"] for row in mine):
                per_float = [row["us"][name] * 1e3 / n for row, n in zip(mine, sizes, strict=True)]
                axis.plot(sizes, per_float, line, color=color, marker="o", markersize=3, label=name)
        if count == 1 and all("read" in row["us"] for row in mine):
            bound = [(row["us"]["read"] + row["us"]["copy"]) * 1e3 / n for row, n in zip(mine, sizes, strict=True)]
            axis.plot(sizes, bound, ":", color="black", label="read + streaming copy")
        axis.set(xscale="log", yscale="log", xlabel="floats in the row", title=f"{count} thread{'s' if count > 1 else ''}")
        axis.grid(visible=True, which="both", alpha=0.2)
    axes[0][0].set_ylabel("ns per float")
    axes[0][0].legend()
    about = found["about"]
    figure.suptitle(f"softmax of one float32 row; {about['machine']}, torch {about['torch']}, {about['date']}")
    figure.tight_layout()
    figure.savefig(RESULTS / "softmax.png", dpi=130)


if __name__ == "__main__":
    main()
