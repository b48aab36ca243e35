"""The page in a browser: slider, drawing, search, themes, keys, address; and text of the model that looks like markup."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from helpers.dumps import Block, dumped, record_of
from helpers.viewing import Show, chosen_stage, drawn
from lowbit_compiler.dump.files import read
from lowbit_compiler.dump.page import page as render


def test_opens_on_a_block_with_sites(graph: Path, show: Show) -> None:
    page = show(graph / "view.html")
    assert chosen_stage(page) == "cleanup"
    assert page.inner_text("#path") == "whole graph \u203a blocks \u203a 0"
    assert "of 10 sites rewritten" in page.inner_text("#summary") or "of 11 sites rewritten" in page.inner_text("#summary")
    assert drawn(page, "before")
    assert drawn(page, "after")
    assert "made by" in page.inner_text("#legend")


def test_slider_changes_stage_and_graph(graph: Path, show: Show) -> None:
    page = show(graph / "view.html", "#module=blocks.0")
    stages = record_of(graph)["stages"]
    last = drawn(page, "after")
    page.focus("#stage")
    for expected in reversed([stage["name"] for stage in stages[:-1]]):
        page.keyboard.press("ArrowLeft")
        assert chosen_stage(page) == expected
    assert drawn(page, "after") == drawn(page, "before") != last
    page.click("#ticks button:has-text('quantize')")
    number = next(i for i, stage in enumerate(stages) if stage["name"] == "quantize")
    assert page.input_value("#stage") == str(number)
    assert page.get_attribute("#stage", "aria-valuetext").startswith(f"{number} of {len(stages) - 1}, quantize: ")
    assert page.query_selector("#after .item.made[aria-label*='made by quantize']")
    page.select_option("#base", "before")
    assert "treat" in page.inner_text("#caption-before")


def test_drawing_holds_the_block(graph: Path, show: Show) -> None:
    page = show(graph / "view.html", "#module=blocks.0")
    record = read(graph)
    inside = {node.name for node in record.nodes_of(0) if node.module.startswith("blocks.0") and node.op != "output"}
    assert inside <= drawn(page, "before")
    boxes = [item.query_selector("rect").bounding_box() for item in page.query_selector_all("#before .item")]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            apart = a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
            assert apart or a["y"] + a["height"] <= b["y"] or b["y"] + b["height"] <= a["y"], "boxes overlap"


def test_search_finds_and_selects(graph: Path, show: Show) -> None:
    page = show(graph / "view.html")
    page.keyboard.press("/")
    page.keyboard.type("blocks.1 up")
    assert page.get_attribute("#query", "aria-expanded") == "true"
    kinds = [row.inner_text() for row in page.query_selector_all("#found [role=option] .kind")]
    assert kinds[0] == "module"
    assert "site" in kinds
    page.keyboard.press("Enter")
    assert page.inner_text("#details h2") == "blocks.1.up"
    assert page.inner_text("#tree [aria-selected=true] > .row .name") == "up"
    page.keyboard.press("/")
    page.keyboard.type("aten.matmul")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert "aten.matmul.default" in page.inner_text("#details")
    page.keyboard.press("/")
    page.keyboard.type("nothing is called so")
    assert "Nothing found" in page.inner_text("#found")
    page.keyboard.press("Escape")
    assert page.is_hidden("#found")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes(graph: Path, show: Show, scheme: str) -> None:
    page = show(graph / "view.html", color_scheme=scheme)

    def brightness() -> float:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(float(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")) / 765

    before = brightness()
    assert (before > 0.5) == (scheme == "light")
    page.click("#theme")
    assert (brightness() > 0.5) != (scheme == "light")
    page.click("#theme")
    assert brightness() == before


def test_keys_step_through_stages_and_views(graph: Path, show: Show) -> None:
    page = show(graph / "view.html")
    page.keyboard.press("ArrowLeft")
    assert chosen_stage(page) == "share"
    page.keyboard.press("ArrowRight")
    assert chosen_stage(page) == "cleanup"
    page.focus("#tab-graph")
    for name in ("diff", "sites", "text", "graph"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert page.is_visible(f"#panel-{name}")


def test_every_control_is_reached_by_tab_and_shows_it(graph: Path, show: Show) -> None:
    page = show(graph / "view.html")
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.id || document.activeElement.className.baseVal || document.activeElement.className")
        )
        width = page.evaluate(
            "parseFloat(getComputedStyle(document.activeElement).outlineWidth) || document.activeElement.matches('.item')"
        )
        assert width, seen[-1]
    for control in ("query", "theme", "stage", "row", "tab-graph", "base", "before", "out", "fit", "in"):
        assert control in seen, (control, seen)


def test_address_brings_back_what_was_looked_at(graph: Path, show: Show) -> None:
    page = show(graph / "view.html")
    page.click("#tree li[aria-label^='head'] .row")
    page.click("#ticks button:has-text('fold')")
    page.click("#tab-text")
    address = page.url[page.url.index("#") :]
    again = show(graph / "view.html", address)
    assert chosen_stage(again) == "fold"
    assert again.is_visible("#panel-text")
    assert again.inner_text("#tree [aria-selected=true] > .row .name") == "head"


class Strange(nn.Module):
    """Modules whose names are markup, called on lines that are."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module('<img src=x onerror="alert(1)">', Block())
        self.add_module("a&amp;</script><b>", nn.Linear(64, 32))

    def forward(self, x: Any) -> Any:
        first, second = self.children()
        note = "</script><script>console.error('ran')</script><!-- {{ title }}"
        return second(first(x)).mul(len(note) > 3 or "</script><img src=x onerror=alert(1)>")


def test_markup_is_shown_as_text(tmp_path: Path, show: Show) -> None:
    folder, _ = dumped(tmp_path, Strange())
    page = show(folder / "view.html", "#module=")
    names = [name.text_content() for name in page.query_selector_all("#tree .name")]
    assert '<img src=x onerror="alert(1)">' in names
    assert "a&amp;</script><b>" in names
    assert not page.query_selector("img, b:not(#happened b):not(figcaption b):not(.counts b)")
    page.click("#after .item[aria-label^='mul']")
    page.click("#ticks button:has-text('capture')")
    record = record_of(folder)
    node = next(node for node in record["nodes"] if node["target"] == ".mul")
    page.keyboard.press("/")
    page.keyboard.type("mul")
    assert "</script><img src=x onerror=alert(1)>" in json.dumps(record["sources"][node["source"]])
    page.keyboard.press("Escape")
    page.evaluate("(name) => chooseNode(name)", node["name"])
    assert "</script><img src=x onerror=alert(1)>" in page.inner_text("#code")


def test_several_graphs(graph: Path, tmp_path: Path, show: Show) -> None:
    other, _ = dumped(tmp_path / "other", nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
    file = tmp_path / "both.html"
    file.write_text(render([read(graph), read(other)]))
    page = show(file)
    assert page.query_selector("#tree .name:text-is('head')")
    page.select_option("#graphs", "1")
    assert not page.query_selector("#tree .name:text-is('head')")
    assert "1 of 1 sites rewritten" in page.inner_text("#summary")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_nothing_is_cut_off(graph: Path, show: Show, width: int, height: int) -> None:
    page = show(graph / "view.html", viewport={"width": width, "height": height})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= height
    boxes = [page.query_selector(name).bounding_box() for name in ("header", "#stages", "nav", "#center", "#details")]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            apart = a["x"] + a["width"] <= b["x"] + 1 or b["x"] + b["width"] <= a["x"] + 1
            assert apart or a["y"] + a["height"] <= b["y"] + 1 or b["y"] + b["height"] <= a["y"] + 1
    ticks = [tick.bounding_box() for tick in page.query_selector_all("#ticks button")]
    words = page.evaluate("[...document.querySelectorAll('#ticks button')].map(b => b.scrollWidth <= b.clientWidth + 1)")
    assert all(words)
    assert all(a["x"] + a["width"] <= b["x"] + 1 for a, b in itertools.pairwise(ticks))
