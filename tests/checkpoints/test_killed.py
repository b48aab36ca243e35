"""A process that is killed while it saves leaves the old files whole, or the new ones, and nothing beside them after the next run."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lowbit_compiler as lowbit
from helpers.prepared import Stack, stack
from lowbit_compiler.checkpoints import save
from lowbit_compiler.runtime import files

STEPS = {
    "after a shard": (save, "_crc", 9),
    "before the config": (save, "_write_config", 1),
    "while old files are linked": (files, "_link", 1),
    "before the exchange": (files, "_exchange", 1),
}


def killed(run: Callable[[], Any]) -> None:
    """Call ``run`` in a child, which must not come back from it."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        try:
            run()
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("step", STEPS)
def test_old_files_stay_whole(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, after = STEPS[step]
    torch.manual_seed(0)
    old, new = stack(1), stack(1)
    lowbit.save_pretrained(old, tmp_path / "model", "int8")
    (tmp_path / "model/tokenizer.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    own, calls = getattr(module, name), iter(range(1, 1000))

    def dying(*args: Any) -> Any:
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, dying)
        killed(lambda: lowbit.save_pretrained(new, tmp_path / "model", "int8", max_shard_size=9_000))
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert len(names(tmp_path)) == 2
    lowbit.save_pretrained(new, tmp_path / "model", "int8", max_shard_size=9_000)
    assert names(tmp_path) == ["model"]
    assert "model.safetensors" not in names(tmp_path / "model")
    assert "tokenizer.json" in names(tmp_path / "model")
    loaded = lowbit.load(tmp_path / "model", Stack(1))
    assert torch.equal(loaded.first.bias, new.first.bias)


def test_killed_after_the_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    old, new = stack(1), stack(1)
    lowbit.save_pretrained(old, tmp_path / "model", "int8")
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        killed(lambda: lowbit.save_pretrained(new, tmp_path / "model", "int8"))
    assert torch.equal(lowbit.load(tmp_path / "model", Stack(1)).first.bias, new.first.bias)
    lowbit.save_pretrained(new, tmp_path / "model", "int8")
    assert names(tmp_path) == ["model"]


def test_where_folders_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two renames there is no folder; the next run brings the old one back first."""
    torch.manual_seed(0)
    old, new = stack(1), stack(1)
    lowbit.save_pretrained(old, tmp_path / "model", "int8")
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    lowbit.save_pretrained(new, tmp_path / "model", "int8")
    assert names(tmp_path) == ["model"]
    rename = Path.rename

    def dying(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if self.name == "model":
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        killed(lambda: lowbit.save_pretrained(old, tmp_path / "model", "int8"))
    assert not (tmp_path / "model").exists()
    with files.staged_folder(tmp_path / "model", lambda name: True):
        assert torch.equal(lowbit.load(tmp_path / "model", Stack(1)).first.bias, new.first.bias)


def test_what_is_no_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(OSError, match="it is no folder"):
        lowbit.save_pretrained(stack(1), tmp_path / "model", "int8")
    assert (tmp_path / "model").read_text() == "mine"
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/sub").mkdir()
    (tmp_path / "kept/sub/note").write_text("mine")
    (tmp_path / "link").symlink_to("kept")
    lowbit.save_pretrained(stack(1), tmp_path / "link", "int8")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept/sub/note").read_text() == "mine"
    assert (tmp_path / "kept/model.safetensors").exists()
