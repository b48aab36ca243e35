import pytest
import torch

from lowbit_compiler.runtime import kernels, library


def pytest_generate_tests(metafunc):
    """``isa``: every level of this machine; ``kernel_of_<family>``: the names of its kernels."""
    detected = library.status().detected
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", detected or [pytest.param("", marks=pytest.mark.skip(reason=library.status().reason))])
    for fixture in metafunc.fixturenames:
        if fixture.startswith("kernel_of_"):
            family = fixture.removeprefix("kernel_of_")
            names = [k.name for k in kernels.kernels() if k.family == family and k.isa in detected]
            metafunc.parametrize(fixture, names or [pytest.param("", marks=pytest.mark.skip(reason="no native library"))])


@pytest.fixture
def one_thread():
    """Run with one thread; what sets another number is put right after."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
