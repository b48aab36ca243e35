"""Where an export writes: over regular files alone, through links, and over nothing that came meanwhile."""

import contextlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

import lowbit_compiler as lowbit
from helpers.graphs import TwoLinears
from lowbit_compiler.errors import ExportError, OptionError
from lowbit_compiler.exits.onnx import stored

X = torch.randn(2, 96)


def test_only_files_are_replaced(tmp_path: Path) -> None:
    """A FIFO, a device, a folder and links to such stay what they are, and are refused before anything is traced."""
    fifo, link, circle = tmp_path / "fifo", tmp_path / "link", tmp_path / "circle"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    circle.symlink_to(circle)
    targets = [fifo, link, circle, tmp_path]
    with contextlib.suppress(PermissionError):  # devices are made by root alone
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        targets.append(tmp_path / "null")
    for target in targets:
        before = target.lstat()
        with pytest.raises(OptionError, match=r"path: cannot write '.*': .*(only a regular file is replaced|symbolic link)"):
            lowbit.export_onnx(TwoLinears().eval(), (X,), target)
        assert (target.lstat().st_mode, target.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert len(list(tmp_path.iterdir())) == len(targets) - 1
    with pytest.raises(OptionError, match="path takes a file, got 3"):
        lowbit.export_onnx(TwoLinears().eval(), (X,), 3)  # type: ignore[arg-type]


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the weights beside the file itself, both with its permissions; and what takes the place of the target meanwhile is not replaced."""
    monkeypatch.setattr(stored, "LARGE", 1000)
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "model.onnx", tmp_path / "link.onnx"
    target.write_bytes(b"before")
    target.chmod(0o600)
    link.symlink_to(target)
    model = TwoLinears().eval()
    lowbit.export_onnx(model, (X,), link)
    assert link.is_symlink()
    assert [stat.S_IMODE(file.stat().st_mode) for file in target.parent.iterdir()] == [0o600] * 2
    assert lowbit.verify_onnx(target, model, (X,)).agrees

    save = stored.ir.save

    def meanwhile(*given: Any, **more: Any) -> None:
        save(*given, **more)
        target.unlink()
        os.mkfifo(target)

    monkeypatch.setattr(stored.ir, "save", meanwhile)
    with pytest.raises(ExportError, match="it is a FIFO, and only a regular file is replaced"):
        lowbit.export_onnx(model, (X,), link)
    assert stat.S_ISFIFO(target.lstat().st_mode)
