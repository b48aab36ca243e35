"""Files that appear whole or not at all, and only in the place of regular files: written beside, then renamed."""

import contextlib
import ctypes
import errno
import glob
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

PREFIX = "."
"""Begins the names of files that are being written."""
ASIDE = ".old"
"""Ends the name of a folder that is being replaced."""


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


@contextlib.contextmanager
def staged_folder(folder: Path, replaces: Callable[[str], bool]) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; at the end the two change places in one step, and the old one goes.

    What is in the old one under names that ``replaces`` does not know stays: it is linked into the new one. A process that is killed leaves the
    old folder as it was, or the new one whole, and beside it at most what the next call here takes away. Raises OSError where that fails.
    """
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise OSError(errno.ENOTDIR, "it is no folder", str(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{target.name}.{os.getpid()}.", dir=target.parent))
    try:
        made.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o777 & ~_umask())
        yield made
        for each in sorted(target.iterdir()) if target.exists() else ():
            if not replaces(each.name) and not (made / each.name).exists():
                _link(each, made / each.name)
        _exchange(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what killed processes left beside ``target``; what one of them had put aside, and nothing in its place, comes back."""
    for left in target.parent.glob(f"{PREFIX}{glob.escape(target.name)}.*.*"):
        owner = left.name.removeprefix(f"{PREFIX}{target.name}.").partition(".")[0]
        if owner.isdigit() and left.is_dir() and not left.is_symlink() and not _alive(int(owner)):
            if left.suffix == ASIDE and not target.exists():
                left.rename(target)
                continue
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _link(source: Path, target: Path) -> None:
    """Let ``target`` be what ``source`` is, without a copy where the file system can do that."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=lambda a, b: _link(Path(a), Path(b)))
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(made: Path, target: Path) -> None:
    """Put ``made`` in the place of ``target``, and that in its own."""
    if not target.exists():
        made.rename(target)
        return
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is not None and exchange(-100, os.fsencode(made), -100, os.fsencode(target), 2) == 0:  # AT_FDCWD, RENAME_EXCHANGE
        return
    aside = made.with_name(f"{made.name}{ASIDE}")  # a file system that cannot exchange: for a moment there is none
    target.rename(aside)
    made.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
