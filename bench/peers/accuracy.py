"""How far a contestant's results are from exact ones; measured in its child, never while anyone is timed."""

from collections.abc import Callable
from typing import Any

import tasks
import torch
from columns import Case
from torch import Tensor

from lowbit_compiler.demo.perplexity import perplexity

SOME_ROWS = 64  # of a linear's result: exact products of more take long


def measure(case: Case, run: Callable[..., Any], task: tasks.Task) -> dict[str, float]:
    """Return what there is to say about the accuracy of ``run``; of a language model's other inputs the error of the last rows of logits."""
    if case.name == "prefill-512":
        return {"perplexity": perplexity(lambda ids: torch.as_tensor(run(ids)), tasks.text_ids())}
    if case.kind == "sentences":
        exact = tasks.load(case, torch.float32)
        mask = exact.inputs[1]
        change = _similarities(torch.as_tensor(run(*task.inputs)), mask) - _similarities(exact.net(*exact.inputs), mask)
        return {"similarity_change": float(change.abs().max())}
    if case.kind == "linear":
        x = task.inputs[0]
        want = x[:SOME_ROWS].double() @ task.net.weight.double().t()
        got = run(x)[:SOME_ROWS].double()
        return {"relative_error": float((got - want).norm() / want.norm())}
    exact = tasks.load(case, torch.float32)
    exact.rewind()
    want = exact.net(*exact.inputs).flatten(0, -2)
    got = torch.as_tensor(run(*task.inputs)).flatten(0, -2)
    if got.shape != want.shape:
        raise ValueError(f"expected logits of shape {tuple(want.shape)}, got {tuple(got.shape)}")
    got, want = got[-SOME_ROWS:].double(), want[-SOME_ROWS:].double()
    return {"relative_error": float((got - want).norm() / want.norm())}


def _similarities(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the cosine of every pair of sentences: mean of the token vectors, as the model's authors do."""
    rows = mask[..., None]
    mean = torch.nn.functional.normalize((hidden.double() * rows).sum(1) / rows.sum(1), dim=-1)
    return mean @ mean.T
