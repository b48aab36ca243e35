"""What is read off the viewer's page."""

from collections.abc import Callable
from typing import Any

Show = Callable[..., Any]
"""Opens a file in a browser; returns the page."""


def chosen_stage(page: Any) -> str:
    """Return the name of the stage that the slider is at."""
    return str(page.inner_text("#happened b"))


def drawn(page: Any, side: str) -> set[str]:
    """Return the items of the drawing "before" or "after"."""
    return {item.get_attribute("data-id") for item in page.query_selector_all(f"#{side} .item")}
