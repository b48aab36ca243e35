"""Checks and times what runs on a GPU, from a checkout: no installation, no network. `make gpu-check`.

1. liblowbit_cuda.so is built for this GPU where nvcc is (build/gpu-check), or taken from $LOWBIT_CUDA_LIBRARY.
2. The checks of tools/gpu_tests.py, and tests/cuda on the GPU where pytest is installed.
3. The benchmarks of tools/gpu_bench.py; all results go to bench/results/gpu_<name>.json, a short table comes last.

`--ops` compares the ops with the CPU and does nothing else (for `make gpu-sanitize`), `--cpu` tries this script itself. Without a GPU it says so and ends with
status 0; a wrong result ends with status 1.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import build_cuda
import torch
import typeview

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "build" / "gpu-check" / "liblowbit_cuda.so"
SHOWN = 10


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


def run_checks(device: str, ops: bool) -> int:
    """Run the checks (``ops``: only that of the ops' results) and print what is wrong; returns how many failed."""
    import gpu_tests

    failed = 0
    everything = (*gpu_tests.CHECKS, *(gpu_tests.GPU_CHECKS if device == "cuda" else ()))
    for check in (gpu_tests.ops_agree,) if ops else everything:
        start = time.perf_counter()
        try:
            wrong = list(check(device))
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        failed += bool(wrong)
        print(f"{'WRONG' if wrong else 'ok':<6}{check.__name__:<24}{time.perf_counter() - start:>7.1f} s")
        for line in wrong[:SHOWN]:
            print(f"      {line}")
        if len(wrong) > SHOWN:
            print(f"      and {len(wrong) - SHOWN} more")
    return failed


def run_pytest() -> int:
    """Run tests/cuda on the GPU; returns 1 if they fail."""
    if importlib.util.find_spec("pytest") is None:
        print("gpu-check: pytest is not installed; tests/cuda are left out")
        return 0
    environment = {**os.environ, "PYTHONPATH": f"{typeview.VIEW}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "pytest", "-q", "-k", "gpu", "tests/cuda"]
    return int(subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode not in (0, 5))


def main(device: str, ops: bool) -> int:
    """Check, then time; returns the exit status."""
    prepare(device)
    cuda_library = importlib.import_module("lowbit_compiler.runtime.cuda_library")
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"gpu-check: {name}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    print(f"gpu-check: CUDA library {cuda_library.status().path or cuda_library.status().reason}")
    failed = run_checks(device, ops)
    if not ops:
        if device == "cuda":
            failed += run_pytest()
        import gpu_bench

        gpu_bench.main(device, ROOT / "bench" / "results")
    print(f"gpu-check: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    chosen = "cpu" if "--cpu" in sys.argv else "cuda"
    if chosen == "cuda" and not torch.cuda.is_available():
        print("gpu-check: no GPU that torch can use; nothing was checked")
        sys.exit(0)
    sys.exit(main(chosen, "--ops" in sys.argv))
