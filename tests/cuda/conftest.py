import shutil

import pytest
from helpers.emulated import Emulated, build


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    return Emulated(build(tmp_path_factory.mktemp("emulated"), compiler))


@pytest.fixture(params=[1, 2])
def emulated(request, emulated_library):
    """The CUDA kernels on the CPU, with warps in two orders."""
    emulated_library.seed = request.param
    return emulated_library
