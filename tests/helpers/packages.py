"""Packages of AOTInductor run by the example program, in which there is no Python."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lowbit_compiler.runtime import library

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "cpp" / "run_package.cpp"


def needs() -> str:
    """Return what is missing here to compile and run packages; "" where nothing is."""
    if library.ops_path() is None:
        return "no native library"
    return "" if shutil.which(os.environ.get("CXX") or "g++") else "no C++ compiler"


@dataclass(frozen=True)
class Program:
    """The example program, built in ``folder`` by the command that it names itself."""

    folder: Path

    def build(self) -> None:
        shutil.copy(SOURCE, self.folder)
        (command,) = re.findall(r"^// +(\$\{CXX.*)$", SOURCE.read_text(), re.MULTILINE)
        torch_folder = {"TORCH": str(Path(torch.__file__).parent)}
        built = subprocess.run(["sh", "-c", command], cwd=self.folder, env=os.environ | torch_folder, check=False)
        assert built.returncode == 0

    def start(self, ops: Path, package: Path, inputs: Path, outputs: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run it with as many threads as there are here, and nothing else of this process."""
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        command = [self.folder / SOURCE.stem, ops, package, inputs, outputs]
        return subprocess.run(command, env=threads | environment, capture_output=True, text=True, check=False)

    def run(self, package: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of ``package``."""
        given, made = self.folder / "inputs.pt", self.folder / "outputs.pt"
        torch.save([*inputs], given)
        ops = library.ops_path()
        assert ops is not None
        done = self.start(ops, package, given, made)
        assert done.returncode == 0, done.stderr
        return [*torch.load(made)]
