"""`lowbit debug bisect` as a command: its status, its files, and models that kill their process."""

import os
import pickle
from pathlib import Path

import pytest

from helpers.forks import Ended, lowbit
from lowbit_compiler.debug.isolated import _answer

MODEL = """
import os
import torch
from lowbit_compiler.errors import OptionError
from lowbit_compiler.passes.lower import Lower

work = Lower.run

def run(self, gm, ctx):
    if any(site.module == "2" and site.plan for site in ctx.sites):
        {act}
    return work(self, gm, ctx)

Lower.run = run

def model():
    layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 64))
    return layers.eval(), (torch.randn(4, 64),)
"""


def bisect(path: Path, *args: str) -> Ended:
    return lowbit("debug", "bisect", f"{path}:model", "--plan", "always", *args, cwd=path.parent)


def write(folder: Path, act: str) -> Path:
    path = folder / "my_model.py"
    path.write_text(MODEL.format(act=act))
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_pass_that_kills_the_process(tmp_path: Path) -> None:
    result = bisect(write(tmp_path, "os.abort()"), "--remainder", "eager", "--isolate")
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].strip() == "pass 'lower' is at fault"
    told = {line[:14].strip(): line[14:].strip() for line in lines[1:]}
    assert told["whole model"].startswith("the process died of SIGABRT")
    assert told["site"] == "2: linear 4 x 128 -> 64"
    assert 10 < float(told["without it"].removesuffix(" dB")) < 100  # a low-bit run, not a float one
    assert "LOWBIT_STOP_AFTER=lower LOWBIT_MAX_REWRITES=2 lowbit debug bisect" in result.stdout
    assert "aten.linear" in (tmp_path / "lowbit_bisect" / "before.txt").read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_mistake_reaches_the_user_from_a_copy(tmp_path: Path) -> None:
    """What a copy of the process raises for the user is raised here; another exception is told, not lost."""
    result = bisect(write(tmp_path, "raise OptionError('not so')"), "--remainder", "eager", "--isolate")
    assert (result.returncode, result.stderr.splitlines()[-1]) == (2, "lowbit: not so")
    _, error, _ = pickle.loads(_answer(_raising))
    assert str(error) == "an attempt failed: KeyError: 'gone'"


def _raising() -> None:
    raise KeyError("gone")


def test_nothing_wrong_is_status_0(tmp_path: Path) -> None:
    result = bisect(write(tmp_path, "pass"), "--remainder", "eager")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("nothing is wrong: ")
    assert not (tmp_path / "lowbit_bisect").exists()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    result = bisect(write(tmp_path, "pass"), "--recipe", "int9")
    assert result.returncode == 2
    assert result.stderr.startswith("lowbit: unknown recipe 'int9'")
    (tmp_path / "file").touch()
    result = bisect(write(tmp_path, "pass"), "--out", str(tmp_path / "file" / "below"))
    assert (result.returncode, result.stderr[:34]) == (2, "lowbit: --out: cannot write to '" + str(tmp_path)[:2])
