"""A graph that is ops of ours and nothing else is called as it is; whatever else is in it takes Inductor, and the planner knows which."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from helpers.compiled import NATIVE, reports_of
from lowbit_compiler.compile.remainder import compile_remainder
from lowbit_compiler.pricing import timing
from lowbit_compiler.runtime.weights import Watch
from lowbit_compiler.torch_internals import inductor

torch.manual_seed(0)
LAYER = nn.Linear(64, 32).eval()
pytestmark = pytest.mark.skipif(not NATIVE, reason="without the native library softmax stays torch's")


@pytest.fixture
def remainders(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Inductor is asked to compile; its graphs run in eager mode."""
    asked: list[Any] = []
    monkeypatch.setattr(inductor, "compile_graph", lambda gm, examples, settings: asked.append(settings) or gm.forward)
    return asked


def run(fn: Callable[..., Any], *inputs: Tensor, **options: Any) -> Any:
    torch._dynamo.reset()
    compiled = torch.compile(fn, backend="lowbit", dynamic=False, fullgraph=True, options={"plan": "always", **options})
    with torch.no_grad():
        return reports_of(lambda: compiled(*inputs))


CASES: dict[str, tuple[Callable[[Tensor], Any], str, int]] = {
    # function, recipe, graphs for Inductor
    "softmax": (lambda x: x.softmax(-1), "int8", 0),
    "scaled, logarithm": (lambda x: torch.log_softmax(x * 0.5, 0), "int8", 0),
    "two": (lambda x: (x.softmax(-1), x.softmax(0)), "int8", 0),
    "linear": (LAYER, "int8", 0),
    "linear and softmax": (lambda x: LAYER(x).softmax(-1), "int8", 0),
    "loop behind": (lambda x: x.softmax(-1).relu(), "int8", 1),
    "view behind": (lambda x: x.softmax(-1).view(-1), "int8", 1),
    "op without a kernel": (LAYER, "mxfp4", 1),
    "nothing of ours": (lambda x: x.relu(), "int8", 1),
}


@pytest.mark.parametrize("case", CASES)
def test_inductor_is_asked_for_what_remains(case: str, remainders: list[Any]) -> None:
    fn, recipe, graphs = CASES[case]
    x = torch.randn(9, 64)
    got, _ = run(fn, x, recipe=recipe)
    assert len(remainders) == graphs
    with torch.no_grad():
        for y, want in zip(*((z if isinstance(z, tuple) else (z,)) for z in (got, fn(x))), strict=True):
            assert (y - want).norm() <= (0.3 if recipe == "mxfp4" else 0.03) * want.norm()


def on(device: str, fn: Callable[[Tensor], Tensor]) -> fx.GraphModule:
    """Return the graph of a function of one tensor that would be there."""
    gm = fx.symbolic_trace(fn)
    for node in gm.graph.nodes:
        node.meta["val"] = torch.empty(2, device=device)
    return gm


@pytest.mark.parametrize(
    ("mode", "device", "settings"), [("reduce-overhead", "cpu", []), (None, "meta", []), ("reduce-overhead", "meta", ["triton.cudagraphs"])]
)
def test_graphs_of_a_gpu_can_be_recorded(mode: str | None, device: str, settings: list[str], remainders: list[Any]) -> None:
    gm = on(device, lambda x: torch.ops.lowbit.softmax.default(x, 0))
    compile_remainder(gm, [torch.empty(2, device=device)], "inductor", mode)
    assert [name for given in remainders for name in given] == settings


@pytest.mark.parametrize("shape", [(256,), (1024,), (4096,), (32, 1024), (32, 4096)])
def test_short_rows(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 5
    (y, (report,)) = run(lambda x: x.softmax(-1), x)
    want = torch.softmax(x.double(), -1)
    assert len(report.rewritten) == 1
    assert ((y - want).abs() / want)[want > 2.0**-125].max() <= 5e-7


@pytest.mark.parametrize("fn", [lambda x: x.softmax(-1), lambda x: x.softmax(-1).relu(), LAYER])
def test_weights_are_looked_at_where_there_are_any(fn: Callable[..., Any], remainders: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []
    monkeypatch.setattr(Watch, "same", lambda *_: looks.append(fn) or True)
    run(fn, torch.randn(9, 64))
    assert len(looks) == (fn is LAYER)


def test_symbolic_sizes(remainders: list[Any]) -> None:
    compiled = torch.compile(lambda x: x.softmax(-1), backend="lowbit", dynamic=True, fullgraph=True, options={"plan": "always"})
    for rows in (3, 7):
        x = torch.randn(rows, 300)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), x.softmax(-1))
    assert remainders == []


def test_the_planner_knows(monkeypatch: pytest.MonkeyPatch, remainders: list[Any]) -> None:
    """A call of ours from Python takes longer than one of torch.softmax, and less than one of Inductor's code."""
    monkeypatch.setattr(timing, "best", lambda *_: {"lowbit": 3e-6, "torch": 2e-6})
    x = torch.randn(1024)
    _, (alone,) = run(lambda x: x.softmax(-1), x, plan="measured")
    _, (among,) = run(lambda x: x.softmax(-1).relu(), x, plan="measured")
    assert [site.detail for site in alone.rewritten] == ["three-pass: 1024 elements a row stay in cache; 1.7x torch (3 us, torch 5 us)"]
    assert [(site.reason, site.detail) for site in among.sites] == [("slower here", "lowbit 5 us, torch 2 us")]
    assert len(remainders) == 1
