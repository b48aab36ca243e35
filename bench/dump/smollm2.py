"""The page of SmolLM2's whole compilation: its size, the time until it can be used, and the pictures in docs/.

python bench/dump/smollm2.py [--pictures]      needs Chromium, and playwright (the extra dev); nothing is compiled
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lowbit_compiler as lowbit
from lowbit_compiler.cli.dump import dump
from lowbit_compiler.demo.model import load

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import about, write

ROOT = Path(__file__).resolve().parents[2]
OPENINGS = 7
TOKENS = 32


def opened(browser: Any, file: Path, address: str = "", dark: bool = False) -> tuple[Any, float]:
    """Open ``file`` in a new page; returns the page, and the seconds until it answers and its first frame is drawn."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="dark" if dark else "light")
    start = time.perf_counter()
    page.goto(f"{file.resolve().as_uri()}{address}")
    page.wait_for_selector("html[data-ready]", state="attached")
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    return page, time.perf_counter() - start


def take_pictures(browser: Any, file: Path, declined: Path) -> None:
    """Write the pictures of docs/dump.md; ``declined`` is the page of a compilation that leaves some sites in float."""
    page, _ = opened(browser, file, "#module=model.layers.0.mlp")
    page.click("#after .item.made[aria-label^='linear_s8s8'] >> nth=1")
    page.screenshot(path=ROOT / "docs" / "dump_block.png")
    page, _ = opened(browser, declined, "#module=model.layers.0.mlp&stage=split&base=before")
    page.click("#tree [aria-selected=true] > .row .twist")
    page.screenshot(path=ROOT / "docs" / "dump_tree.png")
    page, _ = opened(browser, file, "#module=model.layers.0.mlp&stage=quantize", dark=True)
    page.click("#after .item.made[aria-label^='linear'] >> nth=0")
    page.screenshot(path=ROOT / "docs" / "dump_dark.png")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", action="store_true", help="take the pictures of docs/ anew")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    model = load().model
    ids = torch.randint(0, 1000, (1, TOKENS))

    def logits(ids: Tensor) -> Tensor:
        result: Tensor = model(input_ids=ids, use_cache=False).logits
        return result

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        start = time.perf_counter()
        report, files = dump(logits, (ids,), Path(folder), progress=print)
        seconds = time.perf_counter() - start
        file = files[0][0]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        times = [opened(browser, file)[1] for _ in range(OPENINGS)]
        if args.pictures:
            with torch.no_grad():
                lowbit.explain(logits, ids, recipe="llm-int8", ignore=["layers.0.mlp.down_proj"], dump=f"{folder}/declined")
            take_pictures(browser, file, Path(folder) / "declined" / "graph_0" / "view.html")
        result = {
            **about(chromium=browser.version, statistic=f"median of {OPENINGS} openings"),
            "summary": report.summary(),
            "dump_s": round(seconds, 1),
            "html_mb": round(file.stat().st_size / 1e6, 2),
            "folder_mb": round(sum(path.stat().st_size for path in file.parent.iterdir()) / 1e6, 2),
            "open_s_median": round(statistics.median(times), 2),
            "open_s_worst": round(max(times), 2),
        }
        browser.close()
    print(json.dumps(result, indent=1))
    print(write("dump_smollm2.json", result))


if __name__ == "__main__":
    main()
