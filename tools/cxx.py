"""The C++ compiler of the tools that call one."""

import os
import shutil


def compiler() -> str:
    """Return the path of the C++ compiler: the program that $CXX names, or g++.

    Raises:
        SystemExit: there is none.
    """
    named = os.environ.get("CXX") or "g++"
    found = shutil.which(named)
    if found is None:
        raise SystemExit(f"no C++ compiler {named!r}: install it, or name another one in CXX")
    return found
