"""Compiles csrc/bind, all that sees torch, against the headers of every torch that is promised.

`python tools/check_headers.py [VERSION ...]`. Headers come from wheels of another platform: they are the same there, and those wheels are small
(80 to 130 MB); only torch/include is kept, in build/headers/VERSION. A second run downloads nothing. What a library built with the newest
headers takes from torch must be declared by the oldest: one library is to serve them all.
"""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cxx import compiler

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("2.11.0", "2.12.1", "2.13.0", "2.14.1")
SOURCES = sorted((ROOT / "csrc" / "bind").glob("*.cpp"))  # those of the CUDA library too: no header of CUDA is needed
NEEDED = ("torch/include/torch/csrc/", "torch/include/torch/headeronly/")
PLATFORMS = ("macosx_11_0_arm64", "macosx_14_0_arm64")
FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Werror", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
FLAGS += ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY", f"-I{ROOT / 'csrc'}"]


def headers_of(version: str) -> Path:
    """Return the include folder of torch ``version``, downloaded once.

    Raises:
        SystemExit: pip finds no wheel.
    """
    folder = ROOT / "build" / "headers" / version
    if folder.exists():
        return folder / "torch" / "include"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"]
             + [f"--platform={platform}" for platform in PLATFORMS] + ["--dest", scratch, f"torch=={version}"])  # fmt: skip
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(next(Path(scratch).glob("torch-*.whl"))) as wheel:
            wheel.extractall(unpacked, [name for name in wheel.namelist() if name.startswith(NEEDED)])
        unpacked.rename(folder)
    return folder / "torch" / "include"


def taken_from_torch(cxx: str, include: Path) -> set[str]:
    """Compile all sources with the compiler ``cxx`` against ``include``; returns the functions of torch that they call.

    Raises:
        SystemExit: a source does not compile.
    """
    with tempfile.TemporaryDirectory() as scratch:

        def compile_one(source: Path) -> str:
            made = f"{scratch}/{source.stem}.o"
            _run([cxx, *FLAGS, "-isystem", str(include), "-c", str(source), "-o", made])
            return _run(["nm", "--undefined-only", made])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            listed = list(pool.map(compile_one, SOURCES))
    return {name for text in listed for name in re.findall(r" U ((?:aoti_)?torch_\w+)", text)}


def declared(include: Path) -> set[str]:
    """Return the names of torch's C functions in the headers of ``include``."""
    files = [path for path in include.rglob("*.h") if "shim" in path.name]
    return {name for path in files for name in re.findall(r"\b(?:aoti_)?torch_\w+", path.read_text())}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"check_headers: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def main(versions: list[str]) -> None:
    """Check ``versions``, from the oldest to the newest."""
    cxx = compiler()  # before the downloads
    includes = {version: headers_of(version) for version in versions}
    oldest = declared(includes[versions[0]])
    for version, include in includes.items():
        taken = taken_from_torch(cxx, include)
        if missing := taken - oldest:
            raise SystemExit(f"check_headers: built with torch {version}, {', '.join(sorted(missing))} is asked for: not in {versions[0]}")
        print(f"torch {version}: {len(SOURCES)} files compile, {len(taken)} functions of torch's C interface, all of them in {versions[0]}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(VERSIONS))
