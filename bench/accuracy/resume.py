"""How long lowbit.prepare takes on SmolLM2-135M off its grid with 16 windows of 512 tokens, and what becomes of it when it is killed half way.

    python bench/accuracy/resume.py [--recipe int4] [--threads 2]

Three processes: one is left alone and timed, the second is killed (SIGKILL) when half of its blocks are done, the third goes on from what that
one left. The first and the last must carry the same bits.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from subjects import SUBJECTS

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

import lowbit_compiler
from lowbit_compiler.recipes import RECIPES
from lowbit_compiler.runtime.prepared import attached

FILE = "resume.json"
HALF, PATTERN = 15, "block-*.pt"
"""Blocks of 30 that are done when the second process is killed."""


def child(recipe: str, folder: Path, threads: int) -> None:
    """Prepare the model with the checkpoint ``folder``, and save what it carries and the seconds beside that."""
    torch.set_num_threads(threads)
    subject = SUBJECTS["smollm2-off"](512, Console(stderr=True))
    start = time.perf_counter(), time.process_time()
    network = lowbit_compiler.prepare(subject.network, recipe, subject.calibration, checkpoint=folder)
    seconds = {"seconds": time.perf_counter() - start[0], "seconds of the processor": time.process_time() - start[1]}
    parts = {name: list(prepared.parts) for name, prepared in attached(network)}
    torch.save({"about": seconds, "parts": parts}, folder.with_suffix(".pt"))


def started(recipe: str, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start a process that prepares."""
    command = [sys.executable, __file__, "--recipe", recipe, "--threads", str(threads), "--child", str(folder)]
    return subprocess.Popen(command)


def finished(recipe: str, folder: Path, threads: int) -> dict[str, Any]:
    """Return what a process that is left alone saves."""
    if code := started(recipe, folder, threads).wait():
        sys.exit(f"the preparation ended with status {code}")
    return torch.load(folder.with_suffix(".pt"))  # type: ignore[no-any-return]


def killed(recipe: str, folder: Path, threads: int) -> int:
    """Kill a process when half of its blocks are done; returns how many there were."""
    process = started(recipe, folder, threads)
    while len(list(folder.glob(PATTERN))) < HALF:
        if process.poll() is not None:
            sys.exit("the preparation ended before it was killed")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        sys.exit("the preparation ended before it was killed")
    return len(list(folder.glob(PATTERN)))


def main() -> None:
    """Run the three, compare, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="int4", choices=RECIPES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.recipe, args.child, args.threads)
    with tempfile.TemporaryDirectory() as root:
        whole = finished(args.recipe, Path(root) / "whole", args.threads)
        blocks = killed(args.recipe, Path(root) / "killed", args.threads)
        resumed = finished(args.recipe, Path(root) / "killed", args.threads)
    mine, other = whole["parts"], resumed["parts"]
    same = mine.keys() == other.keys() and all(torch.equal(a, b) for name in mine for a, b in zip(mine[name], other[name], strict=True))
    content = {"about": common.about(args.threads, recipe=args.recipe), "whole": whole["about"], "resumed": resumed["about"]}
    content |= {"blocks when killed": blocks, "layers": len(mine), "equal": same}
    Console().print_json(data=content)
    common.write(FILE, content)
    return None if same else sys.exit("the resumed preparation has other bits")


if __name__ == "__main__":
    main()
