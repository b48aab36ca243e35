"""constraints.txt has one tested version of whatever `make demo` and `make test` install, and leaves torch to the Makefile."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def test_every_dependency_has_a_tested_version_that_is_accepted() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), lines
    locked = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert len(locked) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(text) for text in (*project["dependencies"], *extras["demo"], *extras["onnx"], *extras["dev"])]
    names = {canonicalize_name(requirement.name): requirement for requirement in asked}
    for name in ("torch", canonicalize_name(project["name"])):
        assert names.pop(name)
        assert name not in locked
    assert set(names) - set(locked) == set()
    assert all(requirement.specifier.contains(locked[name]) for name, requirement in names.items())
    assert not any(name.startswith(("nvidia-", "cuda-", "triton")) for name in locked)
