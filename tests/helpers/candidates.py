"""Calls to time that do nothing but count, and a clean memory of timings."""

from lowbit_compiler.runtime import timings


class Counted:
    """A call that counts how often it is made."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def forget() -> None:
    """Let the process forget what it has read or measured."""
    timings._known.clear()


def candidates() -> dict[str, Counted]:
    """Return two of them."""
    return {"ours": Counted(), "theirs": Counted()}
