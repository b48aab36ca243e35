import shutil
import zlib

import pytest
import torch

from helpers.emulated import Emulated, build
from helpers.on_gpu import OnGpu

MACHINES = ["emulated"] + ["gpu"] * torch.cuda.is_available()


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    return Emulated(build(tmp_path_factory.mktemp("emulated"), compiler))


@pytest.fixture(params=MACHINES)
def machine(request):
    """The CUDA kernels: on the CPU, with warps in another order for each test; and on the GPU where there is one."""
    if request.param == "gpu":
        return OnGpu()
    emulated = request.getfixturevalue("emulated_library")
    emulated.seed = zlib.crc32(request.node.name.encode())
    return emulated
