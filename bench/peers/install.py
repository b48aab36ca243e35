"""Installs what lowbit is compared with into the environment that runs this, beside the torch that is there; `make bench` calls it.

One that cannot be installed is no error: its rows will say that it is missing. llama.cpp has no binary package and is compiled, for ten
minutes or more.
"""

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

# Named one by one: what llama.cpp finds by itself includes AMX, and that build died of an illegal instruction.
LLAMA_SWITCHES = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "bmi2": "BMI2",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_bf16": "AVX512_BF16",
}
AMX = ("AMX_TILE", "AMX_INT8", "AMX_BF16")


def llama_options(cpuinfo: str) -> str:
    """Return CMake options for the CPU described; none where it is not an x86."""
    flags = next((line.split(":")[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    if not flags:
        return ""
    switches = {name: flag in flags for flag, name in LLAMA_SWITCHES.items()} | dict.fromkeys(("NATIVE", *AMX), False)
    return " ".join(f"-DGGML_{name}={'ON' if on else 'OFF'}" for name, on in switches.items())


def main() -> None:
    """Install each line of requirements.txt."""
    cpuinfo = Path("/proc/cpuinfo")
    environment = os.environ | {"CMAKE_ARGS": llama_options(cpuinfo.read_text() if cpuinfo.exists() else "")}
    environment.pop("SKBUILD_BUILD_DIR", None)  # the folder of lowbit's own build
    lines = Path(__file__).with_name("requirements.txt").read_text().splitlines()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
        print(f"torch=={version('torch')}", file=kept, flush=True)
        for name in (line for line in lines if line and not line.startswith("#")):
            print(f"installing {name}", flush=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", kept.name, name]
            if subprocess.run(command, env=environment, check=False).returncode != 0:
                print(f"{name} could not be installed and will be left out", flush=True)


if __name__ == "__main__":
    main()
