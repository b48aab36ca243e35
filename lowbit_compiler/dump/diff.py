"""What a pass changed, as a unified diff whose lines name the pass that made each node."""

from collections.abc import Iterator, Sequence

from lowbit_compiler.dump.record import Record

CONTEXT = 3


def stage_diff(record: Record, stage: int) -> str:
    """Return the unified diff from the stage before to ``stage``; "" where nothing changed."""
    edits = record.stages[stage].edits
    if not edits:
        return ""
    old, new = ([node.line() for node in record.nodes_of(number)] for number in (stage - 1, stage))
    lines = [f"--- {file_name(record, stage - 1)}", f"+++ {file_name(record, stage)}"]
    for hunk in _hunks(edits):
        lines += _hunk(hunk, old, new)
    return "\n".join(lines) + "\n"


def file_name(record: Record, stage: int, kind: str = "txt") -> str:
    """Return the name of a stage's file."""
    return f"{stage:02d}_{record.stages[stage].name}.{kind}"


def _hunks(edits: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Yield the edits in groups that no more than twice the context separates."""
    hunk = [edits[0]]
    for edit in edits[1:]:
        if edit[0] - hunk[-1][1] > 2 * CONTEXT:
            yield hunk
            hunk = []
        hunk.append(edit)
    yield hunk


def _hunk(edits: Sequence[list[int]], old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    start, shift = max(edits[0][0] - CONTEXT, 0), edits[0][2] - edits[0][0]
    end, end_shift = min(edits[-1][1] + CONTEXT, len(old)), edits[-1][3] - edits[-1][1]
    yield f"@@ -{_range(start, end)} +{_range(start + shift, end + end_shift)} @@"
    at = start
    for a, b, c, d in edits:
        yield from (f" {line}" for line in old[at:a])
        yield from (f"-{line}" for line in old[a:b])
        yield from (f"+{line}" for line in new[c:d])
        at = b
    yield from (f" {line}" for line in old[at:end])


def _range(start: int, end: int) -> str:
    return f"{start + (end > start)},{end - start}"
