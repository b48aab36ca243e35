"""Headless Chromium, as Debian packages it, on pages of small models; without one the tests are skipped and say so."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.dumps import dumped

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Yield one browser for all tests."""
    driver = pytest.importorskip("playwright.sync_api", reason="the viewer's tests need playwright (the extra dev)")
    if CHROMIUM is None:
        pytest.skip("the viewer's tests need Chromium: apt-get install chromium")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a dumped graph."""
    return dumped(tmp_path_factory.mktemp("viewer"), ignore=["blocks.1.down"])[0]


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Any]]:
    """Yield a function that opens a file; afterwards nothing may have been logged, raised or asked of a network."""
    pages, trouble = [], list[str]()

    def open_file(file: Path, address: str = "", **settings: Any) -> Any:
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **settings})
        pages.append(page)
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or trouble.append(f"request: {request.url}"))
        page.goto(f"{file.resolve().as_uri()}{address}")
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_file
    for page in pages:
        page.close()
    assert trouble == []
