"""Narrow a wrong or failing compilation to one pass and one site, by running it with fewer passes and fewer sites."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lowbit_compiler.debug.finding import Finding
from lowbit_compiler.debug.region import Region, region
from lowbit_compiler.debug.replay import Outcome, Plans, Replay, fresh
from lowbit_compiler.debug.search import least
from lowbit_compiler.errors import OptionError
from lowbit_compiler.exits.runtime import NOT_LOWERED
from lowbit_compiler.options import Options, parse
from lowbit_compiler.passes.pipeline import PASS_NAMES
from lowbit_compiler.passes.site import Reason
from lowbit_compiler.recipes import DEFAULT, LOW_BIT_SQNR, Recipe
from lowbit_compiler.report import SiteReport


class Bench(Replay):
    """Runs everything in this process."""

    def region(self, graph: int, options: tuple[Options, Options], index: int | None) -> Region:
        """Return the text of a site's part of graph number ``graph``."""
        captured, examples = self.captured[graph]
        return region((fresh(captured), fresh(captured)), examples, options, index)


def bisect(
    model: Callable[..., Any],
    *inputs: Any,
    recipe: str | Recipe = DEFAULT,
    tolerance: float = LOW_BIT_SQNR,
    progress: Callable[[str], None] = lambda stage: None,
    **options: Any,
) -> Finding:
    """Find the pass and the site at which compiling ``model`` for ``inputs`` goes wrong.

    Wrong is an output whose SQNR to the float model's is below ``tolerance`` dB, or NaN where that has a number, or an exception.
    ``options`` and the environment are those of the backend. Nothing is trained or released; Dynamo is reset. Raises OptionError for
    bad options and DebugError where the float model fails by itself.
    """
    parsed = parse({"recipe": recipe, **options})
    check_tolerance(tolerance)
    progress("running the float model")
    return search(Bench(model, inputs), parsed, tolerance, progress)


def check_tolerance(tolerance: float) -> None:
    """Raise OptionError where ``tolerance`` is no number of dB that an output could miss."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise OptionError(f"tolerance takes a number of dB >= 0, got {tolerance}")


def search(bench: Bench, options: Options, tolerance: float, progress: Callable[[str], None]) -> Finding:
    """Return what is at fault, asking ``bench`` for one run after the other."""
    return _Search(bench, options, tolerance, progress).run()


class _Search:
    def __init__(self, bench: Bench, options: Options, tolerance: float, progress: Callable[[str], None]) -> None:
        self.bench, self.tolerance, self.progress = bench, tolerance, progress
        self.asked = options.remainder
        self.options = replace(options, remainder="eager", verify=False, dump=None, free_weights=False)
        self.graph = 0
        self.outcomes: dict[Plans, Outcome] = {}

    def run(self) -> Finding:
        whole = self.attempt((self.options,) * self.bench.graphs, "the whole model, the rest in eager mode")
        verdict = "a pass"
        if not whole.fails(self.tolerance):
            if self.asked == "eager":
                return self.finding("passes", whole)
            self.options = replace(self.options, remainder=self.asked)
            whole = self.attempt((self.options,) * self.bench.graphs, "the whole model through Inductor")
            if not whole.fails(self.tolerance):
                return self.finding("passes", whole)
            self.progress("the float model through Inductor")
            alone = self.bench.inductor_alone()
            if alone.fails(self.tolerance):
                return self.finding("Inductor", alone)
            verdict = "the remainder"
        self.graph = self.first(self.bench.graphs, lambda count: self.attempt((self.options,) * count, f"{count} graphs")) - 1
        finding = self.finding(verdict, whole)
        position = self.find_pass()
        finding.pass_name = PASS_NAMES[position]
        until = replace(self.options, stop_after=finding.pass_name)
        self.find_site(finding, until)
        self.explain(finding, until, PASS_NAMES[position - 1] if position else None)
        finding.attempts = len(self.outcomes)
        return finding

    def find_pass(self) -> int:
        """Return the position of the first pass after which the graph fails."""
        names = PASS_NAMES[: PASS_NAMES.index(self.options.stop_after) + 1] if self.options.stop_after else PASS_NAMES

        def after(count: int) -> Outcome:
            return self.probe(replace(self.options, stop_after=names[count - 1]), f"up to pass {names[count - 1]}")

        return self.first(len(names), after) - 1

    def find_site(self, finding: Finding, until: Options) -> None:
        """Set the site: the last one of the least number of rewritten sites that fails."""
        sites = self.planned()
        finding.planned = len(sites)

        def limited(count: int) -> Outcome:
            return self.probe(replace(until, max_rewrites=count), f"{count} of {len(sites)} sites")

        none = limited(0)
        if none.fails(self.tolerance) or not sites:
            finding.at_pass = str(none)
            return
        finding.limit = self.first(len(sites), limited)
        index, finding.site = sites[finding.limit - 1]
        whole = self.attempt((self.options,) * self.bench.graphs, "the whole model").reports
        if len(whole) > self.graph:  # not where the passes raise: then no site has a kernel
            finding.site = whole[self.graph].sites[index]
        finding.at_pass = str(limited(finding.limit))
        finding.without = str(limited(finding.limit - 1))

    def explain(self, finding: Finding, until: Options, previous: str | None) -> None:
        """Add the text of the region, the environment that shows the failure, and what makes it go away."""
        limit = finding.limit or 0
        here = replace(until, max_rewrites=limit, remainder="eager")
        before = replace(here, stop_after=previous) if previous else replace(here, disable=frozenset(PASS_NAMES))
        index = self.planned()[limit - 1][0] if finding.site else None
        self.progress(f"the region before and after pass {finding.pass_name}")
        part = self.bench.region(self.graph, (before, here), index)
        finding.before, finding.after, finding.difference, finding.source = part.before, part.after, part.difference, part.source
        finding.site = finding.site or part.site
        finding.environment = {"LOWBIT_STOP_AFTER": finding.pass_name, "LOWBIT_MAX_REWRITES": str(limit)}
        disabled = self.probe(
            replace(self.options, disable=self.options.disable | {finding.pass_name}), f"without pass {finding.pass_name}"
        )
        if not disabled.fails(self.tolerance):
            count = len(disabled.reports[-1].rewritten)
            finding.workarounds.append(f"LOWBIT_DISABLE={finding.pass_name} (then {count} sites are rewritten)")
        if finding.limit and finding.site and finding.site.module != "(function)":
            name = finding.site.module
            ignoring = self.probe(replace(self.options, ignore=(*self.options.ignore, name)), f"without {name}")
            if not ignoring.fails(self.tolerance):
                finding.workarounds.append(f"options={{'ignore': [{name!r}]}}")

    def planned(self) -> list[tuple[int, SiteReport]]:
        """Return the sites that are planned, in the order in which LOWBIT_MAX_REWRITES takes them, with their place in the report."""
        if self.options.stop_after and PASS_NAMES.index(self.options.stop_after) < PASS_NAMES.index("plan"):
            return []
        outcome = self.probe(replace(self.options, stop_after="plan", remainder="eager"), "up to the plan")
        sites = outcome.reports[self.graph].sites if len(outcome.reports) > self.graph else []
        return [(index, site) for index, site in enumerate(sites) if (site.reason, site.detail) == (Reason.DISABLED.value, NOT_LOWERED)]

    def probe(self, options: Options, what: str) -> Outcome:
        """Run the graph under suspicion with ``options``, those before it as they are, those after it in float."""
        return self.attempt((*(self.options,) * self.graph, options), what)

    def attempt(self, plans: Sequence[Options], what: str) -> Outcome:
        """Announce a run, and make it unless it was made before."""
        key = tuple(plans)
        if key not in self.outcomes:
            self.progress(f"attempt {len(self.outcomes) + 1}: {what}")
            self.outcomes[key] = self.bench.attempt(key)
        return self.outcomes[key]

    def first(self, high: int, run: Callable[[int], Outcome]) -> int:
        """Return the smallest count that fails; 0 is known to pass and ``high`` to fail."""
        return least(high, lambda count: run(count).fails(self.tolerance))

    def finding(self, verdict: str, outcome: Outcome) -> Finding:
        return Finding(verdict, str(outcome), self.tolerance, graph=self.graph, graphs=self.bench.graphs, attempts=len(self.outcomes))
