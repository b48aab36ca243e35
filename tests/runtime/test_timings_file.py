"""A file of timings says all that was measured, and on what; whatever else is in its place is one error."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowbit_compiler.runtime import timings_file
from lowbit_compiler.runtime.timings_file import machine, read, text

SECONDS = {"a call": {"float": 1.5e-5, "linear_fs8": 1e-5}, "another": {"lowbit": 0.25, "torch": 1.0}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(text(SECONDS))
    return path


def changed(path: Path, change: Callable[[Any], object]) -> Path:
    """Write the file again, with what it holds changed."""
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    return path


def test_what_is_written_is_read(file: Path) -> None:
    found = read(file)
    assert (found.path, found.seconds, found.machine) == (file, SECONDS, machine())
    assert found.differences() == ""
    stored = json.loads(file.read_text())
    assert {"cpu", "isa", "threads", "torch", "lowbit"} <= set(stored["machine"])
    assert stored["date"][:2] == "20"


@pytest.mark.parametrize(
    ("name", "value", "words"), [("threads", 77, "threads 77, here "), ("isa", ["scalar", "amx2"], "isa scalar amx2, here scalar")]
)
def test_another_machine_is_named(file: Path, name: str, value: object, words: str) -> None:
    found = read(changed(file, lambda stored: stored["machine"].update({name: value})))
    assert found.differences().startswith(words)
    assert ";" not in found.differences()
    assert found.seconds == SECONDS


def test_another_build_is_no_other_machine(file: Path) -> None:
    assert read(changed(file, lambda stored: stored["machine"].update(library=[1, 2]))).differences() == ""


def test_a_machine_that_says_less_is_another(file: Path) -> None:
    assert "torch None, here 2." in read(changed(file, lambda stored: stored["machine"].pop("torch"))).differences()


FOREIGN: dict[str, tuple[Callable[[Any], object], str]] = {
    "other format": (lambda stored: stored["machine"].update(format=0), f"its format is 0; accepted: {timings_file.FORMAT}"),
    "no format": (lambda stored: stored["machine"].pop("format"), "no timings: KeyError: 'format'"),
    "no machine": (lambda stored: stored.pop("machine"), "no timings: KeyError: 'machine'"),
    "no seconds": (lambda stored: stored.pop("seconds"), "no timings: KeyError: 'seconds'"),
    "a list": (lambda stored: stored.update(seconds=[1.0]), "no timings: AttributeError"),
    "words": (lambda stored: stored["seconds"].update(key={"float": "fast"}), "could not convert string to float"),
    "no time": (lambda stored: stored["seconds"].update(key={"float": 0}), "a time that is no finite number of seconds above 0"),
}


@pytest.mark.parametrize(("change", "message"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_files(file: Path, change: Callable[[Any], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(changed(file, change))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe{}", b"[" * 200_000], ids=["nothing", "cut off", "a list", "not UTF-8", "deep"]
)
def test_damaged_files(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read(file)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="no regular file"):
        read(tmp_path / "fifo")
    for name in ("missing", "missing/file"):
        with pytest.raises(OSError, match="No such file"):
            read(tmp_path / name)
