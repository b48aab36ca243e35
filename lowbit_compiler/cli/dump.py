"""The command ``lowbit dump``: every graph of a model in a folder, one page of them all, and a picture of a region."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lowbit_compiler.compile.explaining import explain
from lowbit_compiler.debug.measure import measure as run_measure
from lowbit_compiler.debug.switched import require_inference
from lowbit_compiler.dump.files import PAGE, attach, folders, read
from lowbit_compiler.dump.page import page
from lowbit_compiler.dump.region import draw, require
from lowbit_compiler.errors import OptionError
from lowbit_compiler.options import parse
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.files import write


def dump(
    model: Callable[..., Any],
    inputs: Sequence[Any],
    out: Path,
    *,
    recipe: str = "int8",
    plan: str = "measured",
    region: str = "",
    measure: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> tuple[Report, list[tuple[Path, str]]]:
    """Trace ``model(*inputs)``, write what the passes do to ``out``, and return the report with each file of note and what it is.

    A model of several graphs gets one page of them all beside the graphs' own. With ``measure`` the pages show each product's error and
    certificate on ``inputs``. Raises OptionError for a region that is not there, and for ``measure`` with a recipe that trains.
    """
    options = parse({"recipe": recipe})
    if measure:
        require_inference(options)
    before = folders(out)
    progress("tracing and rewriting the model")
    with torch.set_grad_enabled(options.training is not None):
        report = explain(model, *inputs, recipe=recipe, plan=plan, dump=str(out))
    new = folders(out, before)
    if not new and report.graphs:
        raise OptionError(f"--out: nothing could be written to {str(out)!r}")
    if not new:
        raise OptionError("the model gave Dynamo no graph to compile: it computes nothing with tensors")
    if measure:
        progress("measuring each product")
        attach(new, run_measure(model, *inputs, recipe=recipe, plan=plan))
    records = [read(folder) for folder in new]
    files = [
        (folder / PAGE, f"graph {record.compile_id}" if len(new) > 1 else "open it in a browser")
        for folder, record in zip(new, records, strict=True)
    ]
    if len(new) > 1:
        progress("writing the page")
        write(out / PAGE, page(records))
        files.insert(0, (out / PAGE, "all graphs: open it in a browser"))
    files += [(folder / "index.md", "text, diffs and JSON of each stage") for folder in new]
    if region:
        require(records, region)
        progress("drawing the region")
        files += [(path, f"region {region}") for folder, record in zip(new, records, strict=True) for path in draw(folder, record, region)]
    return report, files
