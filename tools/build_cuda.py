"""Builds liblowbit_cuda.so with nvcc alone: no CMake, no GPU, and no torch (its stable ABI is in third_party/torch).

`python tools/build_cuda.py OUTPUT [sm_80 ...]`, or `--nvcc` to see which nvcc is taken; CMakeLists.txt, the tests and `make gpu-check` all
come here. Targets that nvcc is too old for are left out, and named. Objects stay in a folder beside OUTPUT, one for each choice of targets,
flags, nvcc and torch, and what did not change is not compiled again.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = ROOT / "third_party" / "torch"
TARGETS = ("sm_80", "sm_89", "sm_90a", "sm_100")
KERNELS = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
BINDING = [ROOT / "csrc" / "bind" / name for name in ("abi.cpp", "checks.cpp", "cuda.cpp", "prologue.cpp", "tensors.cpp")]
# Integers depend on products and sums that are rounded one by one: no contraction where fmaf is not written.
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", "-v", f"-I{ROOT / 'csrc'}"]
STABLE = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY", "-Xcompiler", "-ffp-contract=off"]


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one target, as ptxas says."""

    kernel: str
    target: str
    registers: int
    spilled: int
    """Bytes that did not fit in registers."""


def find_nvcc() -> str | None:
    """Return nvcc: the file or name in $CUDACXX, then the PATH, $CUDA_HOME, and where CUDA is usually installed."""
    named = os.environ.get("CUDACXX")
    if named:
        return shutil.which(named)
    homes = (os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    return shutil.which("nvcc") or next((found for home in homes if home and (found := shutil.which(f"{home}/bin/nvcc"))), None)


def known_targets(nvcc: str, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of ``targets`` that this nvcc compiles for (sm_100: from 12.8 on); a final letter only adds instructions.

    Raises:
        SystemExit: there are none.
    """
    listed = set(_output(nvcc, "--list-gpu-code").split())
    known = tuple(target for target in targets if target.rstrip("af") in listed)
    if not known:
        raise SystemExit(f"build_cuda: {nvcc} knows none of {', '.join(targets)}; it knows {', '.join(sorted(listed))}")
    return known


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def object_folder(output: Path, targets: tuple[str, ...], nvcc: str, torch: str) -> Path:
    """Return where objects for ``targets`` lie; ``nvcc`` and ``torch`` are the texts of their versions."""
    made_with = repr((FLAGS, STABLE, nvcc, torch))
    return output.parent / f"{output.name}.{'_'.join(targets)}.{hashlib.sha256(made_with.encode()).hexdigest()[:8]}"


def build(output: Path, targets: tuple[str, ...] = TARGETS) -> list[Resources]:
    """Build the library for ``targets`` as ``output``; returns what its kernels take.

    Raises:
        SystemExit: there is no nvcc, it knows none of the targets, or it fails.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("build_cuda: no nvcc: $CUDACXX, the PATH, $CUDA_HOME/bin and /usr/local/cuda/bin were looked at")
    known = known_targets(nvcc, targets)
    if left := [target for target in targets if target not in known]:
        print(f"build_cuda: {nvcc} is too old for {', '.join(left)}: left out", file=sys.stderr)
    folder = object_folder(output, known, _output(nvcc, "--version"), (TORCH / "VERSION").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    architectures = [f"-gencode=arch=compute_{t.removeprefix('sm_')},code={t}" for t in known]
    forward = ["-gencode=arch=compute_80,code=compute_80"]  # for GPUs that come later
    headers = {path: path.stat().st_mtime for path in (ROOT / "csrc").rglob("*.h")}

    def compile_one(source: Path) -> Path:
        made = folder / f"{source.stem}.o"
        kernel = source.suffix == ".cu"
        read = [changed for path, changed in headers.items() if not (kernel and path.parent.name == "bind")]
        if made.exists() and made.stat().st_mtime > max(*read, source.stat().st_mtime):
            return made
        own = [*architectures, *forward] if kernel else [*STABLE, "-isystem", str(TORCH / "include")]
        start = time.time()
        _run([nvcc, *FLAGS, *own, "-c", str(source), "-o", str(made)], made.with_suffix(".log"))
        os.utime(made, (start, start))  # an edit while nvcc ran is newer
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [*KERNELS, *BINDING]))
    # Linked by name only: torch has been loaded by the time this library is.
    _run([nvcc, "-shared", "-x", "cu", os.devnull, "-o", str(folder / "libtorch_cpu.so")], folder / "stub.log")
    link = ["--cudart", "static", f"-L{folder}", "-Xlinker", "--no-as-needed", "-ltorch_cpu", "-ldl"]
    beside = output.with_suffix(".new")
    _run([nvcc, "-shared", *map(str, objects), "-o", str(beside), *link], folder / "link.log")
    beside.replace(output)
    return [row for source in KERNELS for row in resources((folder / f"{source.stem}.log").read_text())]


def _run(command: list[str], log: Path) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        log.with_suffix(".o").unlink(missing_ok=True)
        raise SystemExit(f"build_cuda: {' '.join(command)}\n{done.stdout}{done.stderr}")


_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL)


def resources(log: str) -> list[Resources]:
    """Return what the lines of `ptxas -v` say of each kernel."""
    return [Resources(kernel, target, int(registers), int(spilled)) for kernel, target, spilled, registers in _ENTRY.findall(log)]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    if sys.argv[1:] == ["--nvcc"]:
        print(find_nvcc() or "")
        sys.exit()
    for row in build(Path(sys.argv[1]).resolve(), tuple(sys.argv[2:]) or TARGETS):
        print(f"{row.target:<8}{row.registers:>4} registers {row.spilled:>4} bytes spilled  {row.kernel}")
