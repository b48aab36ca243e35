"""The line of the model's code that made a node, out of the stack trace that capture keeps."""

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]*)", line (?P<line>\d+), in .*\n(?:(?!\s*File ")\s*(?P<code>.*))?', re.MULTILINE)
_TORCH = str(Path(torch.__file__).parent) + os.sep


@dataclass(frozen=True)
class Source:
    """A line of code; ``file`` is relative to the package's folder or to the working folder where it lies in one."""

    file: str
    line: int
    code: str


@functools.lru_cache(maxsize=1 << 14)
def source_of(trace: str) -> Source | None:
    """Return the innermost line of ``trace`` that is not torch's own (nn.Linear's forward says nothing of the model), if there is one."""
    frames = [match.groupdict() for match in _FRAME.finditer(trace)]
    if not frames:
        return None
    ours = [frame for frame in frames if not frame["file"].startswith(_TORCH)]
    frame = (ours or frames)[-1]
    return Source(_short(frame["file"]), int(frame["line"]), (frame["code"] or "").strip())


def _short(file: str) -> str:
    for marker in (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"):
        if marker in file:
            return file.rpartition(marker)[2]
    inside = os.path.relpath(file) if os.path.isabs(file) else file
    return file if inside.startswith(os.pardir) else inside
