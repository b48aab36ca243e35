"""What ``lowbit debug bisect`` found: the verdict, the pass and the site, and how to see it again."""

import io
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table

from lowbit_compiler.report import SiteReport
from lowbit_compiler.runtime.files import write


@dataclass
class Finding:
    """``verdict`` is "passes", "a pass", "the remainder" (right in eager mode, wrong compiled) or "Inductor" (wrong without lowbit)."""

    verdict: str
    symptom: str
    """The worst output's SQNR to the float model, or the error."""
    tolerance: float
    pass_name: str = ""
    graph: int = 0
    graphs: int = 1
    site: SiteReport | None = None
    source: str = ""
    """Line of the user's code that the site comes from."""
    limit: int | None = None
    """Least number of rewritten sites that fails; the site is the last of them."""
    planned: int = 0
    at_pass: str = ""
    """The same as ``symptom``, right after the pass, with the site as the last one that is rewritten."""
    without: str = ""
    """The same with one rewritten site less."""
    before: str = ""
    after: str = ""
    difference: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    workarounds: list[str] = field(default_factory=list)
    attempts: int = 0

    @property
    def failed(self) -> bool:
        """Whether there is anything wrong."""
        return self.verdict != "passes"

    def command(self, arguments: str = "lowbit debug bisect FILE.py:FUNCTION") -> str:
        """Return a shell command that shows the failure with the first ``limit`` sites, of which this is the last, and the passes up to this one."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()), arguments])

    def write(self, folder: Path) -> list[Path]:
        """Write before.txt, after.txt and difference.diff of the site's region; returns what was written."""
        texts = {"before.txt": self.before, "after.txt": self.after, "difference.diff": self.difference}
        for name, text in texts.items():
            write(folder / name, text)
        return [folder / name for name in texts]

    def __rich__(self) -> Group:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in self._rows():
            if text:
                table.add_row(name, text)
        return Group(self.headline(), table)

    def headline(self) -> str:
        """Return the verdict as one sentence."""
        if self.verdict == "passes":
            return f"nothing is wrong: {self.symptom} SQNR to the float model, {self.tolerance:.1f} dB asked for"
        if self.verdict == "Inductor":
            return "Inductor fails on the float model already, without lowbit"
        where = f"pass {self.pass_name!r}"
        if self.verdict == "the remainder":
            return f"right with remainder='eager', wrong through Inductor: from {where} on"
        return f"{where} is at fault"

    def _rows(self) -> list[tuple[str, str]]:
        site = self.site
        at = f"{self.limit} of {self.planned} planned" if self.limit else ""
        if self.verdict in ("passes", "Inductor"):
            return [("whole model", self.symptom)] if self.failed else []
        return [
            ("whole model", f"{self.symptom} (SQNR to the float model; {self.tolerance:.1f} dB asked for)"),
            ("graph", f"{self.graph} of {self.graphs}" if self.graphs > 1 else ""),
            ("site", f"{site.module}: {site.op} {site.shape}" if site else "none: it fails without any rewritten site"),
            ("", f"{site.lowered_to} {site.kernel}".strip() if site else ""),
            ("source", self.source),
            ("as number", at),
            ("with it", self.at_pass),
            ("without it", self.without),
            *(("goes away with", text) for text in self.workarounds),
            ("found in", f"{self.attempts} runs"),
        ]

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=140)
        console.print(self)
        if self.environment:
            console.print(f"to see it again: {self.command('...')}", soft_wrap=True)
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
