"""Checks and times what runs on a GPU, from a checkout: no installation, no network. `make gpu-check ARGS="--budget 900"`.

1. liblowbit_cuda.so is built for this GPU where nvcc is (build/gpu-check), or taken from $LOWBIT_CUDA_LIBRARY.
2. The checks of tools/gpu_tests.py and the benchmarks of tools/gpu_bench.py, most telling first, then tests/cuda on the GPU where pytest is installed.
3. Each result is in bench/results/gpu_<name>.json, and in $OUT where that is set, as soon as it is there; a short table comes last.

Without a GPU it says so and ends with status 0; a wrong result ends with status 1. What the budget leaves out is named, and is no failure.
"""

import argparse
import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import build_cuda
import gpu_steps
import torch
import typeview
from gpu_steps import Step

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "build" / "gpu-check" / "liblowbit_cuda.so"
SOURCES = ("csrc", "lowbit_compiler", "passes", "runtime", "tools")
FIRST_PRODUCTS = 4


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--budget", type=float, default=420, metavar="SECONDS", help="begin nothing that would end later (default: %(default)s)"
    )
    parser.add_argument("--resume", type=Path, metavar="FILE", help="results of an earlier run here: what is in them is not done again")
    parser.add_argument("--ops", action="store_true", help="compare the ops with the CPU and do nothing else (for make gpu-sanitize)")
    parser.add_argument(
        "--cpu", action="store_true", help="try this script without a GPU: a little of everything; results go to build/gpu-check"
    )
    return parser.parse_args()


def target() -> str:
    """Return this GPU's target; those that have instructions of their own end in "a"."""
    major, minor = torch.cuda.get_device_capability()
    return "sm_90a" if (major, minor) == (9, 0) else f"sm_{major}{minor}"


def prepare(device: str) -> None:
    """Build the library where that is possible, and make the package importable."""
    if device == "cuda" and "LOWBIT_CUDA_LIBRARY" not in os.environ:
        if build_cuda.find_nvcc() is None:
            print("gpu-check: no nvcc, so no CUDA library; set LOWBIT_CUDA_LIBRARY to one that was built elsewhere")
        else:
            start = time.perf_counter()
            build_cuda.build(LIBRARY, (target(),))
            print(f"gpu-check: {LIBRARY.relative_to(ROOT)} is ready, {time.perf_counter() - start:.0f} s")
            os.environ["LOWBIT_CUDA_LIBRARY"] = str(LIBRARY)
    typeview.make()
    sys.path.insert(0, str(typeview.VIEW))
    importlib.import_module("lowbit_compiler.runtime")  # registers the ops


def about(device: str) -> gpu_steps.Results:
    """Return what results hold for: device, versions, and the sources as a short hash."""
    made = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".cpp", ".cu", ".h")):
        made.update(path.read_bytes())
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"device": name, "torch": str(torch.__version__), "sources": made.hexdigest()[:8], "date": time.strftime("%Y-%m-%d")}


def tests_on_the_gpu() -> list[str]:
    """Run tests/cuda on the GPU; returns pytest's last lines if they fail."""
    environment = {**os.environ, "PYTHONPATH": f"{typeview.VIEW}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "gpu", "tests/cuda"]
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    return [] if done.returncode in (0, 5) else done.stdout.splitlines()[-gpu_steps.SHOWN :]


def order(device: str, ops: bool = False) -> list[Step]:
    """Return all steps, the most telling first: whether the kernels are right, how fast they are, whether a model compiles, then more of each.

    Peers come last: what they break, they break for nobody.
    """
    import gpu_bench
    import gpu_tests

    from lowbit_compiler.recipes import WITH_KERNELS

    def step(check: gpu_tests.Check, name: str = "", group: str = "", expected: float = 10) -> Step:
        return Step(name or check.__name__, lambda: list(check(device)), group=group, expected=expected)

    right, consistent = step(gpu_tests.ops_agree), step(gpu_tests.opcheck)
    if ops:
        return [right]
    gpu = device == "cuda"
    tables = gpu_bench.tables(device)
    compiled = [step(check, name, "compile", 30) for name, check in gpu_tests.compile_checks(WITH_KERNELS).items()]
    products = tables["products"]
    tests = [Step("tests/cuda", tests_on_the_gpu, expected=60)] if gpu and importlib.util.find_spec("pytest") else []
    return [
        right,
        *(step(check) for check in gpu_tests.GPU_CHECKS if gpu),
        *products[:FIRST_PRODUCTS],
        compiled[0],
        *tables["softmax"],
        consistent,
        *tables["model"],
        *(compiled[1:] if gpu else []),
        *products[FIRST_PRODUCTS:],
        *tests,
        *tables["peers"],
    ]


def main(device: str, budget: float, ops: bool = False, resume: Path | None = None) -> int:
    """Run what fits in ``budget`` seconds; returns the exit status."""
    start = time.monotonic()
    prepare(device)
    import gpu_bench

    cuda_library = importlib.import_module("lowbit_compiler.runtime.cuda_library")
    content = about(device)
    print(f"gpu-check: {content['device']}, torch {content['torch']}, Python {sys.version.split()[0]}")
    print(f"gpu-check: CUDA library {cuda_library.status().path or cuda_library.status().reason}")
    folders = [ROOT / "bench" / "results" if device == "cuda" else LIBRARY.parent]
    folders += [Path(os.environ["OUT"])] if "OUT" in os.environ else []
    files = [folder / f"gpu_{content['device'].lower().replace(' ', '-')}.json" for folder in folders]
    log = gpu_steps.Log(gpu_steps.resumed(resume, content) if resume else content, [] if ops else files)
    torch.manual_seed(0)
    left_out = gpu_steps.run(order(device, ops), log, budget - (time.monotonic() - start))
    gpu_bench.summary(log.content)
    if left_out:
        print(f"gpu-check: no time for {len(left_out)} of all steps: {'; '.join(left_out)}")
    if log.files:
        print(f"gpu-check: all results are in {' and '.join(map(str, files))}")
    print(f"gpu-check: {len(log.failed)} failed")
    return 1 if log.failed else 0


if __name__ == "__main__":
    chosen = options()
    if not chosen.cpu and not torch.cuda.is_available():
        print("gpu-check: no GPU that torch can use; nothing was checked")
        sys.exit(0)
    sys.exit(main("cpu" if chosen.cpu else "cuda", chosen.budget, chosen.ops, chosen.resume))
