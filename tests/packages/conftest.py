"""The program in which packages are run is built once; its tests need a C++ compiler, as AOTInductor does."""

from pathlib import Path

import pytest
from torch.export import ExportedProgram

from helpers import packages
from lowbit_compiler.torch_internals import inductor


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> packages.Program:
    if missing := packages.needs():
        pytest.skip(missing)
    program = packages.Program(tmp_path_factory.mktemp("program"))
    program.build()
    return program


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch) -> list[ExportedProgram]:
    """Return the programs that would be compiled; files are empty."""
    programs: list[ExportedProgram] = []

    def package(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
        programs.append(program)
        path.touch()

    monkeypatch.setattr(inductor, "package", package)
    return programs
