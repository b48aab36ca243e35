"""The reports of this process's compilations: ``lowbit.last_report``."""

from lowbit_compiler.report import Report

REMEMBERED = 100  # reports; a server that recompiles for days must not keep them all
_reports: list[Report] = []


def last_report() -> Report:
    """Return the report of the newest compilation; raises LookupError where nothing was compiled yet."""
    if not _reports:
        raise LookupError("nothing was compiled with backend='lowbit' in this process yet")
    return _reports[-1]


def remember(report: Report) -> None:
    """Let ``report`` be the newest."""
    _reports.append(report)
    del _reports[:-REMEMBERED]
