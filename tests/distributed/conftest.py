"""What tests of several processes share."""

from pathlib import Path

import pytest

from helpers import parallel_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of two layers of Llama, in float."""
    found = tmp_path_factory.mktemp("llama")
    parallel_llama.save(found)
    return found
