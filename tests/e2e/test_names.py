"""Reports and ``ignore`` speak of modules and parameters as the model does, however it was wrapped, broken up or compiled."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import zoo
from helpers.compiled import compiled, cosine, linears, reports_of
from helpers.named import OPTIONS, PRODUCTS, Model, X, modules, sites
from lowbit_compiler.errors import OptionError
from lowbit_compiler.report import Report
from lowbit_compiler.torch_internals import sources


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """As transformers does with ``forward``, which then has no argument called self."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Decorated(Model):
    forward = decorated(Model.forward)


class Answering(Model):
    """Asks for attributes itself, as ModelMixin of diffusers and PeftModel do."""

    def __getattr__(self, name: str) -> Any:
        if name == "of_old":
            return {}
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("classifier"), name)


class Around(nn.Module):
    """Passes everything on, as PEFT and DataParallel do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)


KINDS = (Model, Decorated, Answering)
HOW = ("torch.compile", "in place", "forward", "function", "argument", "container")
PAIRS = [(kind, how, (i + j) % 2 == 1) for i, kind in enumerate(KINDS) for j, how in enumerate(HOW)]
"""Every two of kind, way and breaks meet."""


@pytest.mark.parametrize(("kind", "how", "breaks"), PAIRS, ids=[f"{kind.__name__}-{how}-{breaks}" for kind, how, breaks in PAIRS])
def test_names_are_those_of_the_whole_model(kind: type[Model], how: str, breaks: bool) -> None:
    model, x = kind(breaks).eval(), torch.randn(X)
    options = {"backend": "lowbit", "options": OPTIONS}
    if how == "torch.compile":
        run = functools.partial(torch.compile(model, **options), x)
    elif how == "in place":
        model.compile(**options)
        run = functools.partial(model, x)
    elif how == "forward":
        model.forward = torch.compile(model.forward, **options)  # type: ignore[method-assign]
        run = functools.partial(model, x)
    elif how == "function":
        run = functools.partial(torch.compile(lambda x: model(x) + 1, **options), x)
    elif how == "argument":
        run = functools.partial(torch.compile(lambda m, x: m(x) + 1, **options), model, x)
    else:
        run = functools.partial(torch.compile(lambda held, x: held["model"](x) + 1, **options), {"model": model}, x)
    found = sites(run)
    assert modules(found) == PRODUCTS
    assert set(modules(found)) <= set(dict(model.named_modules()))
    assert all(site.decision == "rewritten" for site in found)


def test_modules_around_a_model_are_part_of_its_names() -> None:
    model = Around(Decorated(breaks=True).eval())
    assert modules(sites(lambda: compiled(model, fullgraph=False)(torch.randn(X)))) == [f"base_model.{name}" for name in PRODUCTS]


def test_functions_name_several_modules_by_their_variables() -> None:
    up, down = nn.Linear(64, 128), nn.Sequential(nn.Linear(128, 64))

    def both(x: Tensor) -> Tensor:
        hidden = up(x)
        torch._dynamo.graph_break()
        return down(hidden)

    found = sites(lambda: compiled(both, fullgraph=False)(torch.randn(X)))
    assert modules(found) == ["down.0", "up"]
    torch._dynamo.reset()
    found = sites(lambda: compiled(lambda blocks, x: blocks[1](blocks[0](x)))([up, down], torch.randn(X)))
    assert modules(found) == ["blocks.0", "blocks.1.0"]
    torch._dynamo.reset()
    left = sites(lambda: compiled(both, fullgraph=False, ignore=["down"])(torch.randn(X)))
    assert [(site.module, site.decision) for site in left] == [("up", "rewritten"), ("down.0", "declined")]


@pytest.mark.parametrize("name", ["classifier", "encoder.0.inner", "encoder.1", "encoder.1.inner.weight", "unused", "re:^encoder\\.0"])
@pytest.mark.parametrize("kind", [Decorated, Answering], ids=lambda kind: kind.__name__)
def test_ignore_holds_across_graph_breaks(kind: type[Model], name: str) -> None:
    model, x = kind(breaks=True).eval(), torch.randn(X)
    left = {product for product in PRODUCTS if product.startswith(name.removeprefix("re:^").replace("\\", "").removesuffix(".weight"))}
    with torch.no_grad():
        want = model(x)
        run = compiled(model, fullgraph=False, modules_to_not_convert=[name])
        got, reports = reports_of(lambda: run(x))
    found = [site for report in reports for site in report.sites]
    assert {site.module for site in found if site.reason == "filtered by the user"} == left
    assert {site.module for site in found if site.decision == "rewritten"} == set(PRODUCTS) - left
    assert cosine(got, want) > 0.99


@pytest.mark.parametrize("breaks", [False, True])
def test_a_name_that_is_nowhere_is_an_error_before_anything_is_compiled(breaks: bool) -> None:
    model, x = Decorated(breaks).eval(), torch.randn(X)
    with torch.no_grad(), pytest.raises(Exception, match="matches no module or parameter of the model") as raised:
        compiled(model, fullgraph=False, ignore=["clasifier"])(x)
    assert "close: classifier" in str(raised.value)
    assert isinstance(getattr(raised.value, "inner_exception", raised.value), OptionError)


@pytest.mark.parametrize("kind", [Model, Decorated, Answering], ids=lambda kind: kind.__name__)
def test_where_torch_shows_something_else_names_are_spelled_after_its_sources(kind: type[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    def moved() -> None:
        raise AttributeError("moved")

    monkeypatch.setattr(sources, "met_modules", moved)
    model = kind().eval()
    assert modules(sites(lambda: compiled(model)(torch.randn(X)))) == PRODUCTS


def names_in(reports: list[Report]) -> set[str]:
    return {site.module for report in reports for site in report.sites}


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2"])
def test_transformers_models_and_the_same_in_a_decorator(family: str) -> None:
    model, inputs = getattr(zoo, family)()
    again = copy.deepcopy(model)

    class Wrapped(type(again)):  # type: ignore[misc]
        forward = decorated(decorated(type(again).forward))

    again.__class__ = Wrapped
    for each in (model, again):
        torch._dynamo.reset()
        with torch.no_grad():
            _, reports = reports_of(lambda: compiled(each, fullgraph=False)(**inputs))  # noqa: B023  called at once
        assert names_in(reports) <= set(dict(each.named_modules())), names_in(reports) - set(dict(each.named_modules()))
        assert sum(len(linears(report)) for report in reports) >= 8
