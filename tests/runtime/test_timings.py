"""Timings are measured once for a machine state and remembered on disk; a damaged or foreign file does no harm."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.candidates import Counted, candidates, forget
from lowbit_compiler.runtime import library, timings, timings_file

pytestmark = pytest.mark.usefixtures("cache")


def test_measured_once() -> None:
    first, second, third = candidates(), candidates(), candidates()
    seconds = timings.best("key", dict(first))
    assert set(seconds) == {"ours", "theirs"}
    assert all(call.calls > 1 for call in first.values())
    assert timings.best("key", dict(second)) == seconds
    forget()
    assert timings.best("key", dict(third)) == seconds
    assert not any(call.calls for call in (*second.values(), *third.values()))


def test_keys_and_candidates_are_apart() -> None:
    timings.best("a", dict(candidates()))
    timings.best("b", dict(candidates()))
    forget()
    stored = json.loads(timings.cache_file().read_text())["seconds"]
    assert set(stored) == {"a", "b"}
    other = {"ours": Counted(), "another": Counted()}
    timings.best("a", dict(other))
    assert all(call.calls for call in other.values())


def damaged(seconds: object) -> bytes:
    return json.dumps({"machine": timings_file.machine(), "seconds": {"key": seconds}}).encode()


UNUSABLE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "cut off": lambda: b"{",
    "a list": lambda: b"[]",
    "another machine": lambda: b'{"machine": {}, "seconds": {"key": {"ours": 1, "theirs": 1}}}',
    "no machine": lambda: b'{"seconds": 3}',
    "a null byte": lambda: b"\0",
    "not UTF-8": lambda: b"\xff\xfe{}",
    "deep": lambda: b"[" * 200_000,
    "deep in place": lambda: damaged(1).replace(b"1}", b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "many digits": lambda: damaged(1).replace(b"1}", b"9" * 10_000 + b"}"),
    "words": lambda: damaged({"ours": "fast", "theirs": 1}),
    "a list of seconds": lambda: damaged([1.0, 1.0]),
    "nothing measured": lambda: damaged({"ours": None, "theirs": None}),
    **{
        str(number): lambda number=number: damaged({"ours": number, "theirs": 1.0})  # type: ignore[misc]
        for number in (0, -1.0, float("nan"), float("inf"), 10**400)
    },
    "large": lambda: b" " * (timings_file.MOST_BYTES + 1),
}


def used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The timings are measured in place of what is at ``path``, which is set aside with one warning; and found again."""
    first, second = candidates(), candidates()
    with caplog.at_level("WARNING", "lowbit_compiler"):
        seconds = timings.best("key", dict(first))
        timings.best("other", dict(candidates()))
        assert all(call.calls for call in first.values())
        forget()
        assert timings.best("key", dict(second)) == seconds
    assert not any(call.calls for call in second.values())
    (record,) = caplog.records
    assert f"the timings in {path} cannot be used" in record.getMessage()
    assert f"{path.name}.bad" in record.getMessage()
    assert set(json.loads(path.read_text())["seconds"]) == {"key", "other"}
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{path.name}.bad"]


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_file_is_set_aside(content: Callable[[], bytes], caplog: pytest.LogCaptureFixture) -> None:
    path = timings.cache_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(content())
    used(path, caplog)
    assert path.with_name(f"{path.name}.bad").read_bytes() == content()


def unreadable(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)


UNREADABLE: list[Callable[[Path], None]] = [
    os.mkfifo,  # nobody ever writes to it: reading would wait for ever
    os.mkdir,
    unreadable,
    lambda path: path.symlink_to(path.name),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path.parent),
]


@pytest.mark.parametrize("make", UNREADABLE, ids=["fifo", "folder", "no permission", "circle", "device", "link to folder"])
def test_what_is_no_readable_file_is_set_aside(make: Callable[[Path], None], caplog: pytest.LogCaptureFixture) -> None:
    path = timings.cache_file()
    path.parent.mkdir(parents=True)
    make(path)
    used(path, caplog)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.write_text("{")], ids=["fifo", "damaged"])
def test_what_cannot_be_set_aside_stays(
    make: Callable[[Path], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that cannot be written to: one warning, and everything is measured in this process."""
    path = timings.cache_file()
    path.parent.mkdir(parents=True)
    make(path)

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", read_only)
    monkeypatch.setattr(timings, "_in_the_way", set())
    before = path.lstat()
    seconds = timings.best("key", dict(candidates()))
    again = candidates()
    assert timings.best("key", dict(again)) == seconds
    assert not any(call.calls for call in again.values())
    timings.best("other", dict(candidates()))
    assert path.lstat().st_ino == before.st_ino
    (record,) = caplog.records
    assert "it stays, because it cannot be renamed" in record.getMessage()


def test_a_link_to_timings_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, real = timings.cache_file(), tmp_path / "kept.json"
    path.parent.mkdir(parents=True)
    path.symlink_to(real)
    seconds = timings.best("key", dict(candidates()))
    forget()
    assert timings.best("key", dict(candidates())) == seconds
    assert path.is_symlink()
    assert json.loads(real.read_text())["seconds"]["key"] == seconds
    assert not caplog.records


def test_a_clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner divides by times."""
    monkeypatch.setattr(timings, "measure", lambda candidates, **_: {name: [0.0, 0.0] for name in candidates})
    assert min(timings.best("key", dict(candidates())).values()) > 0


def test_a_place_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    again = candidates()
    seconds = timings.best("key", dict(candidates()))
    assert timings.best("key", dict(again)) == seconds
    assert not any(call.calls for call in again.values())


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "status", lambda: library.Status(Path("/gone/lib.so"), None))


@pytest.mark.parametrize("lose", [homeless, without_library])
def test_no_file_to_keep_it_in(lose: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    lose(monkeypatch)
    again = candidates()
    seconds = timings.best("key", dict(candidates()))
    assert timings.best("key", dict(again)) == seconds
    assert not any(call.calls for call in again.values())
    assert not list(cache.iterdir())


def test_what_killed_processes_left_is_removed(cache: Path) -> None:
    path = timings.cache_file()
    path.parent.mkdir(parents=True)
    old, new = (path.with_name(f".{path.name}.{name}") for name in ("1.2", "3.4"))
    old.write_text("")
    new.write_text("")
    os.utime(old, (0, 0))
    timings.best("key", dict(candidates()))
    assert sorted(path.parent.iterdir()) == sorted((new, path))


def test_another_state_has_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    here = timings.cache_file()
    state = {**timings_file.machine(), "threads": 77}
    monkeypatch.setattr(timings, "machine", lambda: state)
    assert timings.cache_file() != here


def test_writers_side_by_side(cache: Path) -> None:
    """However they interleave, the file is whole and nothing is left beside it."""
    path = timings.cache_file()

    def write(index: int) -> None:
        for turn in range(20):
            timings._write(path, f"{index}.{turn}", {"ours": 1.0})

    threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(path.read_text())["seconds"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
