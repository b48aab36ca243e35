"""Symbolic sizes: what is known of them without adding a guard."""

import contextlib
from typing import Any


def statically_known_true(condition: Any) -> bool:
    """Return whether ``condition``, a bool or a SymBool, holds for every size that the graph allows."""
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def guard_or_false(condition: Any) -> bool:
    """Return ``condition``, False where it is known at run time only."""
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def guard_or_true(condition: Any) -> bool:
    """Return ``condition``, True where it is known at run time only."""
    from torch.fx.experimental.symbolic_shapes import guard_or_true

    return guard_or_true(condition)


def unmarked(fake_mode: Any) -> Any:
    """Return a context in which sizes made under ``fake_mode`` (None: no matter) leave no trace in its shape environment."""
    shapes = getattr(fake_mode, "shape_env", None)
    return contextlib.nullcontext() if shapes is None else shapes.ignore_fresh_unbacked_symbols()


def any_size_at_one() -> contextlib.AbstractContextManager[None]:
    """Return a context in which an example size of 1 stands for any size, where it may change."""
    import torch.fx.experimental._config as config

    patch: contextlib.AbstractContextManager[None] = config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return patch
