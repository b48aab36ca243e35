"""Files that appear whole or not at all, and only in the place of regular files: written beside, then renamed."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "."
"""Begins the names of files that are being written."""


def replaceable(path: Path) -> Path:
    """Return the file that writing to ``path`` makes or replaces: where it is a link, what that points to.

    Raises OSError where something else than a regular file is there (a folder, a device, a FIFO, a socket), or a link to itself.
    """
    try:
        target = path.resolve()
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    except RuntimeError as error:  # of Python up to 3.12, for links in a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_kind(mode)}, and only a regular file is replaced", str(path))
    return target


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link in a circle"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def write(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, whole or not at all, with the folders above it; a file that is replaced keeps its permissions.

    Raises OSError where that fails, as :func:`replaceable` does too; nothing is left beside then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    target = replaceable(path)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666
    beside = target.with_name(f"{PREFIX}{target.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)  # before the try: what is there already is another's
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a file of the name of ``path`` in a folder of its own beside it; what was written there takes its place at the end.

    The folder goes in any case, with all that is in it. A file that is replaced keeps its permissions. Raises OSError where that fails, as
    :func:`replaceable` does too.
    """
    target = replaceable(path)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{target.name}.", dir=target.parent))
    try:
        beside = folder / target.name
        yield beside
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
