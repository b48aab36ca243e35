"""Products that no kernel computes have a count, a colour and their reason on the page."""

from pathlib import Path

from helpers.dumps import dumped
from helpers.recipes import EMULATED
from helpers.viewing import Show


def test_emulated_sites_are_told_from_declined_ones(tmp_path: Path, show: Show) -> None:
    folder, report = dumped(tmp_path, recipe=EMULATED["mxfp4"], ignore=["blocks.1.down"])
    decisions = [site.decision for site in report.sites]
    assert {"emulated", "declined"} <= set(decisions)
    page = show(folder / "view.html")
    label = page.get_attribute("[role=treeitem]", "aria-label")
    assert f"0 rewritten, {decisions.count('emulated')} emulated, {decisions.count('declined')} declined" in label
    counts = page.query_selector("[role=treeitem] > .row .counts")
    assert counts.query_selector(".emulated").inner_text() == str(decisions.count("emulated"))
    assert counts.query_selector(".declined").inner_text() == str(decisions.count("declined"))
    page = show(folder / "view.html", "#tab=sites&module=blocks.0.down")
    number = next(index for index, site in enumerate(report.sites) if site.module == "blocks.0.down")
    page.click(f"tr[data-site='{number}'] button")
    assert "no kernel for fp4 e8m0 b32 x fp4 e8m0 b32" in page.inner_text("#details")
