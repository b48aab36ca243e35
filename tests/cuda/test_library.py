"""Loading of the CUDA library and the environment variables that govern it; each case in its own process."""

import os

import pytest
import torch

from helpers import forks

PROGRAM = """
from lowbit_compiler.runtime import cuda_library
status = cuda_library.status()
print(status.path, "|", status.reason, "|", cuda_library.kernel_for("softmax", 1, 1))
"""


def run(**environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LOWBIT_")}
    return forks.run(PROGRAM, environment=clean | environment)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_torch_without_cuda_has_no_use_for_it():
    done = run()
    assert done.stdout == f"None | torch {torch.__version__} has no CUDA | reference\n", done.stderr


def test_it_can_be_left_out():
    assert run(LOWBIT_NATIVE="0").stdout == "None | LOWBIT_NATIVE=0 | reference\n"


def test_a_library_of_another_build(tmp_path):
    file = tmp_path / "old.so"
    file.write_bytes(b"\x7fELF of before")
    done = run(LOWBIT_CUDA_LIBRARY=str(file))
    assert done.stderr.endswith(
        f"OSError: LOWBIT_CUDA_LIBRARY: cannot load {file}: it was built for other Python files than these: build it again\n"
    )


def test_a_file_that_is_named_must_load(tmp_path):
    file = tmp_path / "none.so"
    done = run(LOWBIT_CUDA_LIBRARY=str(file))
    assert done.returncode == 1
    assert f"OSError: LOWBIT_CUDA_LIBRARY: cannot load {file}" in done.stderr
