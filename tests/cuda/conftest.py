import shutil
import zlib

import pytest

from helpers.emulated import Emulated, build


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    return Emulated(build(tmp_path_factory.mktemp("emulated"), compiler))


@pytest.fixture
def emulated(request, emulated_library):
    """The CUDA kernels on the CPU, with warps in another order for each test."""
    emulated_library.seed = zlib.crc32(request.node.name.encode())
    return emulated_library
