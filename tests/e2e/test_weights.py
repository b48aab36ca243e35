"""Weights that change, that are shared, and that are released."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from helpers import zoo
from helpers.block import block, llama
from helpers.compiled import COSINE, changed, compiled, cosine, reports_of


def load(model: nn.Module) -> None:
    model.load_state_dict({name: -value for name, value in model.state_dict().items()})


def copy(model: nn.Module) -> None:
    with torch.no_grad():
        model.up.weight.copy_(torch.randn_like(model.up.weight))  # type: ignore[operator, union-attr, arg-type]


def data(model: nn.Module) -> None:
    model.up.weight.data = torch.randn(128, 64)  # type: ignore[union-attr]


def replace(model: nn.Module) -> None:
    model.up.weight = nn.Parameter(torch.randn(128, 64))  # type: ignore[union-attr]


def bias(model: nn.Module) -> None:
    with torch.no_grad():
        model.q.bias.add_(3)  # type: ignore[operator, union-attr]


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    with torch.no_grad():
        optimizer.step()


@pytest.mark.parametrize("change", [load, copy, data, replace, bias, step])
def test_changed_weight(change: Callable[[nn.Module], None]) -> None:
    model, x = block()
    with torch.no_grad():
        got, want = changed(compiled(model), model, x, change)
        fresh = compiled(model)(x)
    assert cosine(got, want) > COSINE
    assert torch.equal(got, fresh)


def test_two_instances_share_code() -> None:
    """Instances of one class may share the compiled code, not the weights."""
    (first, x), (second, _) = block(), block()
    runs = [compiled(first), compiled(second)]
    with torch.no_grad():
        for _ in range(2):
            for model, run in zip((first, second), runs, strict=True):
                assert cosine(run(x), model(x)) > COSINE
        assert not torch.equal(runs[0](x), runs[1](x))


def test_tied_weights() -> None:
    model = llama(tie_word_embeddings=True)
    ids = zoo.ids()
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model)(input_ids=ids))
        assert cosine(got.logits, model(input_ids=ids).logits) > COSINE
        assert "lm_head" in {site.module for site in report.rewritten}
        torch._dynamo.reset()
        _, (report,) = reports_of(lambda: compiled(model, "llm-int8")(input_ids=ids))
    assert [(site.module, site.reason) for site in report.declined if site.kind == "linear"] == [
        ("lm_head", "output head kept by the recipe")
    ]


def test_free_weights(caplog: pytest.LogCaptureFixture) -> None:
    """Storage goes, the tied embedding stays, a new shape works, and what no longer works says so."""
    model = llama(tie_word_embeddings=True)
    ids = zoo.ids()
    weights = {name: value for name, value in model.named_parameters() if value.dim() == 2}
    size = sum(value.nbytes for name, value in weights.items() if "embed" not in name)
    with torch.no_grad():
        want, longer = model(input_ids=ids).logits, model(input_ids=zoo.ids(tokens=17).fill_(5)).logits
        run = compiled(model, free_weights=True)
        with caplog.at_level(logging.WARNING, "lowbit_compiler"):
            got, (report,) = reports_of(lambda: run(input_ids=ids).logits)
        assert cosine(got, want) > COSINE
        for name, value in weights.items():
            assert (value.untyped_storage().nbytes() == 0) == ("embed" not in name), name
        assert f"free_weights released {size / 1e6:.1f} MB" in report.notes[0]
        assert any("free_weights released" in record.getMessage() for record in caplog.records)
        assert cosine(run(input_ids=zoo.ids(tokens=17).fill_(5)).logits, longer) > COSINE  # recompiled
        torch._dynamo.reset()
        assert cosine(compiled(model)(input_ids=ids).logits, want) > COSINE  # the same recipe: packed weights are shared
        torch._dynamo.reset()
        with pytest.raises(Exception, match=r"WeightFreedError: .*released by free_weights=True"):
            compiled(model, "llm-int8")(input_ids=ids)


def test_free_weights_of_borrowed_memory() -> None:
    """Memory of a NumPy array is not torch's to release; the graph is compiled all the same."""
    model, x = block()
    model.up.weight = nn.Parameter(torch.from_numpy(model.up.weight.detach().numpy().copy()))  # type: ignore[union-attr, operator]
    with torch.no_grad():
        want = model(x)
        got, (report,) = reports_of(lambda: compiled(model, free_weights=True)(x))
    assert not report.fallback
    assert cosine(got, want) > COSINE
    assert model.up.weight.untyped_storage().nbytes() > 0  # type: ignore[union-attr, operator]
    assert model.q.weight.untyped_storage().nbytes() == 0  # type: ignore[union-attr, operator]
