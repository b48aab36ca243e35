"""What stands around the drawing: details, tree, table, diff and text."""

from pathlib import Path

from helpers.dumps import dumped, record_of
from helpers.viewing import Show, chosen_stage
from lowbit_compiler.dump.files import attach, folders
from lowbit_compiler.report import Measured, Report


def test_details_say_what_the_report_says(graph: Path, show: Show) -> None:
    data = record_of(graph)
    for site in data["sites"]:
        page = show(graph / "view.html", f"#tab=sites&module={site['module']}")
        text = page.inner_text("#details")
        page.click(f"tr[data-site='{data['sites'].index(site)}'] button")
        text = page.inner_text("#details")
        shown = [
            site["decision"],
            site["op"],
            site["shape"],
            site["kernel"],
            site["lowered_to"],
            site["reason"],
            site["prologue"],
            *site["merged_with"],
        ]
        for part in shown:
            assert part in text, (part, text)
        node = next(node for node in data["nodes"] if node["name"] == site["node"])
        assert f"%{site['node']}" in text
        assert any(other["type"] in text for other in data["nodes"] if other["name"] == node["name"])
        page.close()


def test_details_show_source_and_bytes(graph: Path, show: Show) -> None:
    page = show(graph / "view.html", "#module=blocks.0&stage=capture")
    page.click("#after .item[aria-label^='silu']")
    text = page.inner_text("#details")
    assert "silu(self.gate(x))" in page.inner_text("#code")
    assert "dumps.py:" in text
    assert "float32[2, 8, 128]" in text
    assert "8.19 kB" in text  # 2 * 8 * 128 * 4 bytes
    assert page.query_selector("#after .item.chosen[aria-label^='silu']")


def test_measured_is_shown(tmp_path: Path, show: Show) -> None:
    folder, report = dumped(tmp_path)
    measured = Measured(
        sqnr=41.527, cosine=0.99997, error=1.25e-3, bound=5e-3, tightness=0.25, effect=0.0125, outlier_share=0.003,
        activation_scales=(0.011, 0.022, 0.033), weight_scales=(0.0044, 0.0055, 0.0066), seconds=1.5e-3, floor=0.5e-3,
    )  # fmt: skip
    attach(folders(tmp_path), Report(report.recipe, sites=[type(site)(**{**vars(site), "measured": measured}) for site in report.sites]))
    page = show(folder / "view.html", "#tab=sites")
    heads = page.inner_text("thead")
    page.click("tbody tr:first-child button")
    text = page.inner_text("#details")
    for head in ("SQNR", "cosine", "error", "bound", "tightness", "effect", "outliers", "time", "floor"):
        assert head in heads
    for value in (
        "41.53 dB",
        "0.999970",
        "0.00125",
        "0.00500",
        "0.250",
        "1.25 %",
        "0.300 %",
        "0.0110 · 0.0220 · 0.0330",
        "1.50 ms",
        "33.3 %",
    ):
        assert value in text, value


def test_tree_folds_and_gives_reasons(graph: Path, show: Show) -> None:
    page = show(graph / "view.html", "#module=blocks.1")
    row = "#tree li[aria-label^='1 Block']"
    assert page.get_attribute(row, "aria-expanded") == "false"
    assert "1 filtered by the user" in page.inner_text(f"{row} > .reasons")
    page.click(f"{row} > .row .twist")
    assert page.get_attribute(row, "aria-expanded") == "true"
    assert page.inner_text(f"{row} li[aria-label^='down'] .reasons") == "filtered by the user"
    assert page.inner_text(f"{row} > .row .counts .declined") == str(
        sum(s["decision"] == "declined" for s in record_of(graph)["sites"] if s["module"].startswith("blocks.1"))
    )
    page.click(f"{row} > .row .twist")
    assert page.get_attribute(row, "aria-expanded") == "false"
    assert not page.query_selector(f"{row} > ul")
    assert "filtered by the user" in page.inner_text("#details")


def test_tree_by_keyboard(graph: Path, show: Show) -> None:
    page = show(graph / "view.html", "#module=blocks.0")
    page.focus("#tree .row[tabindex='0']")
    page.keyboard.press("ArrowRight")
    for _ in range(3):  # two products of activations, then the first linear
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.inner_text("#tree [aria-selected=true] .name") == "gate"
    assert chosen_stage(page) == "cleanup"  # arrows in the tree do not move the slider
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.closest('li').getAttribute('aria-level')") == "1"


def test_site_table_sorts(graph: Path, show: Show) -> None:
    page = show(graph / "view.html", "#tab=sites&module=blocks.1")
    rows = lambda: [row.inner_text() for row in page.query_selector_all("tbody td:last-child")]
    assert len(rows()) == len(record_of(graph)["sites"])
    page.click("th:has-text('saved') button")
    assert page.get_attribute("th:has-text('saved')", "aria-sort") == "descending"
    by = {site["saved_bytes"] for site in record_of(graph)["sites"]}
    assert len(by) > 1
    first = rows()
    page.keyboard.press("Enter")  # the focus stays on the head
    assert page.get_attribute("th:has-text('saved')", "aria-sort") == "ascending"
    assert rows() != first
    page.check("#only")
    assert {row.inner_text().split(".")[1] for row in page.query_selector_all("tbody td:first-child")} == {"1"}


def test_diff_names_passes(graph: Path, show: Show) -> None:
    page = show(graph / "view.html", "#tab=diff&stage=quantize")
    written = next(graph.glob("*_quantize.diff")).read_text().splitlines()[2:]
    for sign, kind in (("+", "added"), ("-", "removed")):
        shown = [line.text_content() for line in page.query_selector_all(f"#panel-diff .line.{kind}")]
        assert shown == [line for line in written if line.startswith(sign)]
    page.click("#ticks button:has-text('find')")
    assert page.inner_text("#panel-diff") == "This stage changed nothing."


def test_text_is_the_file(graph: Path, show: Show) -> None:
    page = show(graph / "view.html", "#tab=text&stage=merge")
    shown = [line.text_content() for line in page.query_selector_all("#panel-text .line")]
    assert shown == next(graph.glob("*_merge.txt")).read_text().splitlines()
