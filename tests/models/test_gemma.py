"""Gemma-3-270M, whose norms add 1 to their weight: compiled, every product decided, and little lost with 8- and 4-bit weights."""

import pytest
import torch

from helpers import gemma
from helpers.compiled import compiled, reports_of
from lowbit_compiler.demo import text

pytestmark = pytest.mark.model
LAYERS, TOKENS = 18, 192
MOST = {"int8": 0.05, "int4-weight-only": 0.25}
"""Nats of divergence from the float model; twice and more what was measured (docs/int4.md)."""
PERPLEXITY = 60.0
"""Of prose, in float: a tensor that is unpacked wrongly leaves one of thousands."""


def test_little_is_lost() -> None:
    try:
        model, tokenizer = gemma.load()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    ids = torch.tensor([[gemma.BOS, *tokenizer.encode(text.english()[: 10 * TOKENS]).ids[:TOKENS]]])
    with torch.no_grad():
        want = torch.log_softmax(model(ids).logits[0], -1)
        assert float(torch.nn.functional.nll_loss(want[:-1], ids[0, 1:]).exp()) < PERPLEXITY
        for recipe, most in MOST.items():
            torch._dynamo.reset()
            got, (report,) = reports_of(lambda recipe=recipe: compiled(model, recipe)(ids).logits[0])  # type: ignore[misc]
            assert not report.fallback
            assert all(site.kind != "linear" or site.decision == "rewritten" for site in report.sites)
            assert len([site for site in report.rewritten if site.kind == "linear"]) == 7 * LAYERS + 1
            low = torch.log_softmax(got, -1)
            assert float((want.exp() * (want - low)).sum(-1).mean()) < most, recipe
