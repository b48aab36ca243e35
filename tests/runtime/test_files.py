"""Files are written whole or not at all, and only over regular files: a link stays, and what is no file is refused."""

import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lowbit_compiler.runtime.files import replaceable, staged, write


def device(path: Path) -> None:
    """Make what /dev/null is; as root only."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except (PermissionError, OSError):
        pytest.skip("making a device needs root")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def to_folder(path: Path) -> None:
    (path.parent / "folder").mkdir()
    path.symlink_to("folder")


def to_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "fifo")
    path.symlink_to("fifo")


def in_a_circle(path: Path) -> None:
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)


NO_FILES = [device, os.mkfifo, os.mkdir, listening, to_folder, to_fifo, in_a_circle]


@pytest.mark.parametrize("make", NO_FILES, ids=lambda make: make.__name__)
def test_what_is_no_file_stays(make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path("target")
    make(path)
    before = {each.name: each.lstat() for each in tmp_path.iterdir()}
    with pytest.raises(OSError, match=r"only a regular file is replaced|symbolic link"):
        write(path, "text")
    after = {each.name: each.lstat() for each in tmp_path.iterdir()}
    assert {name: (each.st_mode, each.st_ino) for name, each in before.items()} == {
        name: (each.st_mode, each.st_ino) for name, each in after.items()
    }


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(there: bool, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link, second = tmp_path / "real" / "file", tmp_path / "link", tmp_path / "second"
    if there:
        target.write_text("before")
    link.symlink_to(Path("real") / "file")
    second.symlink_to(link)
    assert replaceable(second) == target.resolve()
    write(second, "after")
    assert link.is_symlink()
    assert second.is_symlink()
    assert target.read_text() == "after"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_permissions_of_the_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o640)
    write(path, "after")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write(tmp_path / "new" / "file", "text")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "new" / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nobody_else_may_read_it_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, modes = tmp_path / "file", []
    path.write_text("before")
    path.chmod(0o600)
    copymode = shutil.copymode

    def watched(source: Path, beside: Path) -> None:
        modes.append(stat.S_IMODE(beside.stat().st_mode))
        copymode(source, beside)

    monkeypatch.setattr(shutil, "copymode", watched)
    write(path, "after")
    assert modes == [0o600]


def test_what_another_writer_has_beside_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, beside = tmp_path / "file", tmp_path / ".file.0"
    path.write_text("before")
    beside.write_text("another's")
    monkeypatch.setattr(secrets, "token_hex", lambda length: "0")
    with pytest.raises(FileExistsError):
        write(path, "after")
    assert (path.read_text(), beside.read_text()) == ("before", "another's")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write(path, "x" * 100_000 + "\ud800")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(path, "after")
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", [False, True])
def test_a_staged_file_takes_its_place_at_the_end(failing: bool, tmp_path: Path) -> None:
    """Through a link, with the permissions of what was there; what else was in the folder goes, whatever happens."""
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("before")
    path.chmod(0o640)
    link.symlink_to("file")
    try:
        with staged(link) as beside:
            assert beside.name == "file"
            beside.write_text("after")
            beside.with_name("scratch").write_text("")
            if failing:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert failing
    assert path.read_text() == ("before" if failing else "after")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link"]
