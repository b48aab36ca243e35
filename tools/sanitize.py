"""Runs the tests of ops and kernels on a build of the CPU library that AddressSanitizer and UndefinedBehaviorSanitizer watch, and chains on a
build that ThreadSanitizer watches.

`python tools/sanitize.py [--quick] [PYTEST ARGUMENTS]`. The first fault ends the run with its report. ``--quick`` takes the tests that look for
reads and writes out of bounds: malformed arguments, operands at the end of a page, every op once. The build is in build, in a folder for
each environment, and what did not change is not compiled again. Before any test, two faults made on purpose must be reported.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cxx import compiler

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / f"sanitize-{Path(sys.prefix).name.lstrip('.')}"  # CMake remembers the tools of the environment it ran in
LIBRARY = FOLDER / "liblowbit_cpu.so"
QUICK = ["tests/kernels/test_malformed.py", "tests/kernels/test_memory.py", "tests/runtime/test_ops.py"]
WHOLE = ["tests/kernels", "tests/runtime/test_ops.py", "tests/runtime/test_limits.py"]
FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
FAULTS = """
extern "C" int heap(int i) { int* memory = new int[4]; int value = memory[i]; delete[] memory; return value; }
extern "C" int overflow(int i) { return 0x7fffffff + i; }
"""


def build() -> None:
    """Bring the watched library up to date.

    Raises:
        SystemExit: it cannot be built, or nothing watches it.
    """
    cxx = compiler()
    wanted = [
        "-DLOWBIT_SANITIZE=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DCMAKE_CXX_COMPILER:STRING={cxx}",
    ]
    remove_of_other_compiler(cxx)
    _run("cmake", "-S", str(ROOT), "-B", str(FOLDER), "-G", "Ninja", *wanted)
    _run("cmake", "--build", str(FOLDER), "--target", "lowbit_cpu", "chain_check")
    called = _run("nm", "--dynamic", "--undefined-only", str(LIBRARY))
    if "__asan_report_load" not in called or "__ubsan_handle" not in called:
        raise SystemExit(f"sanitize: nothing watches {LIBRARY}: does {cxx} know {' '.join(FLAGS)}?")


def remove_of_other_compiler(cxx: str) -> None:
    """Remove what another compiler than ``cxx`` built: told of it, CMake starts anew and forgets all else that it is told."""
    cache = FOLDER / "CMakeCache.txt"
    if cache.exists() and f"CMAKE_CXX_COMPILER:STRING={cxx}\n" not in cache.read_text():
        shutil.rmtree(FOLDER)


def environment() -> dict[str, str]:
    """Return the environment of a Python in which the watched library loads."""
    runtimes = [_run(compiler(), f"-print-file-name={name}").strip() for name in ("libasan.so", "libubsan.so", "libstdc++.so")]
    return os.environ | {
        "LD_PRELOAD": " ".join(runtimes),
        "LOWBIT_LIBRARY": str(LIBRARY),
        # Python leaks on purpose; and torch is to say itself that there is no memory.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def check_watched() -> None:
    """Raise SystemExit unless a read out of bounds and an overflow are reported in a Python with this environment."""
    source, library = FOLDER / "faults.cpp", FOLDER / "faults.so"
    source.write_text(FAULTS)
    _run(compiler(), *FLAGS, "-shared", "-fPIC", str(source), "-o", str(library))
    for fault, argument, report in (("heap", 4, "heap-buffer-overflow"), ("overflow", 1, "signed integer overflow")):
        program = f"import ctypes; ctypes.CDLL({str(library)!r}).{fault}({argument})"
        done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environment())
        if done.returncode == 0 or report not in done.stderr:
            raise SystemExit(f"sanitize: {report} was not reported:\n{done.stderr}")


def check_threads() -> None:
    """Raise SystemExit where ThreadSanitizer finds a race between the threads of a chain, or an instruction set gives other bits."""
    if "__tsan_" not in _run("nm", "--dynamic", "--undefined-only", str(FOLDER / "chain_check")):
        raise SystemExit("sanitize: ThreadSanitizer does not watch chain_check")
    print(_run(str(FOLDER / "chain_check")).strip())


def _run(*command: str) -> str:
    own_tools = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # cmake and ninja of this environment
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=own_tools)
    if done.returncode:
        raise SystemExit(f"sanitize: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def main(arguments: list[str]) -> int:
    """Build, check, and run the tests; returns pytest's exit status."""
    build()
    check_watched()
    check_threads()
    quick = "--quick" in arguments
    rest = [argument for argument in arguments if argument != "--quick"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *(QUICK if quick else WHOLE), *rest]
    return subprocess.run(command, check=False, cwd=ROOT, env=environment()).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
