"""A pass made wrong on purpose is named, with the site that it is wrong at."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from helpers.compiled import NATIVE
from lowbit_compiler.compile import finish, remainder
from lowbit_compiler.debug.bisect import bisect
from lowbit_compiler.debug.replay import Outcome, Replay
from lowbit_compiler.errors import OptionError
from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.graph import aten, calls, emit
from lowbit_compiler.passes.pipeline import PASS_NAMES, runtime_exit, waist

TARGET = "layers.1.down"
PASSES = {p.name: type(p) for p in waist() + runtime_exit()}
BEFORE_PLAN = PASS_NAMES[: PASS_NAMES.index("plan")]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return torch.softmax(x, -1)


def _product(gm: fx.GraphModule, ctx: PassContext) -> fx.Node | None:
    """Return the target's product in whatever form it is now; None where it is not rewritten."""
    for site in ctx.sites:
        if site.module == TARGET:
            decided = site.reason is not None or site.plan is not None
            return site.node if site.plan is not None or not decided else None
    stacks = ((node, node.meta.get("nn_module_stack")) for node in gm.graph.nodes if calls(node, aten.linear.default))
    return next((node for node, stack in stacks if stack and list(stack.values())[-1][0].endswith(TARGET)), None)


def _insert(gm: fx.GraphModule, node: fx.Node, target: Any, *args: Any) -> None:
    new = emit(gm, target, node, *args, like=node, before=node.next)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def wrong_scale(gm: fx.GraphModule, node: fx.Node) -> None:
    _insert(gm, node, aten.mul.Scalar, -30.0)


def not_a_number(gm: fx.GraphModule, node: fx.Node) -> None:
    _insert(gm, node, aten.mul.Scalar, float("nan"))


def raising(gm: fx.GraphModule, node: fx.Node) -> None:
    raise KeyError("gone")


def broken(gm: fx.GraphModule, node: fx.Node) -> None:
    """A graph that passes every check and cannot run: what reads the product expects another shape."""
    _insert(gm, node, aten.flatten.using_ints)


def no_value(gm: fx.GraphModule, node: fx.Node) -> None:
    """A new node without its fake value, which the runner refuses."""
    with gm.graph.inserting_after(node):
        new = gm.graph.call_function(aten.relu.default, (node,))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def sabotage(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[fx.GraphModule, fx.Node], None]) -> None:
    """Let pass ``name`` do ``act`` to the target once it has done its own work."""
    original = PASSES[name].run

    def run(self: Any, gm: fx.GraphModule, ctx: PassContext) -> int:
        count = original(self, gm, ctx)
        node = _product(gm, ctx)
        if node is None:
            return count
        act(gm, node)
        return count + 1

    monkeypatch.setattr(PASSES[name], "run", run)


def narrowed(**options: Any) -> Any:
    torch.manual_seed(1)
    return bisect(Small().eval(), torch.randn(5, 64), **{"plan": "always", "remainder": "eager", **options})


FEW = ("normalize", "quantize", "prologue")
SABOTAGES = [(name, wrong_scale) for name in PASS_NAMES]
SABOTAGES += [(name, act) for act in (broken, raising, not_a_number, no_value) for name in FEW]
MORE = [(name, act) for act in (broken, raising) for name in PASS_NAMES if name not in FEW]
CASES = [pytest.param(name, act, id=f"{name}-{act.__name__}") for name, act in SABOTAGES]
CASES += [pytest.param(name, act, id=f"{name}-{act.__name__}", marks=pytest.mark.model) for name, act in MORE]


@pytest.mark.parametrize(("name", "act"), CASES)
def test_bad_pass_is_named(name: str, act: Callable[[fx.GraphModule, fx.Node], None], monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, name, act)
    finding = narrowed()
    assert finding.verdict == "a pass"
    assert finding.pass_name == name, finding
    if name in (*BEFORE_PLAN, "plan") and act in (raising, no_value):  # no site is planned yet, and there is no graph to run
        assert finding.site is None
    else:
        assert finding.site is not None, finding
        assert finding.site.module == TARGET, finding


def test_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the site, the outcome with and without it, the code, the region, and what makes the failure go away."""
    sabotage(monkeypatch, "lower", wrong_scale)
    finding = narrowed()
    assert (finding.limit, finding.planned) == (4, 6 + NATIVE)  # up and down of layers 0 and 1; the softmax
    assert float(finding.at_pass.removesuffix(" dB")) < 10 < float(finding.without.removesuffix(" dB"))
    assert finding.environment == {"LOWBIT_STOP_AFTER": "lower", "LOWBIT_MAX_REWRITES": "4"}
    assert "test_bisect.py" in finding.source
    assert "aten.linear" in finding.before
    assert "lowbit.linear_s8s8_rotated" in finding.after
    assert "aten.mul.Scalar" in finding.after
    assert finding.after.count("lowbit.linear_s8s8_rotated") == 1  # of this site alone
    assert "options={'ignore': ['layers.1.down']}" in finding.workarounds
    assert "to see it again: LOWBIT_STOP_AFTER=lower LOWBIT_MAX_REWRITES=4 ..." in str(finding)
    assert f"{finding.attempts} runs" in str(finding)


def test_the_environment_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is printed a run fails; with one site less it passes."""
    sabotage(monkeypatch, "pack", wrong_scale)
    found = narrowed()
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    again = narrowed()
    assert (again.pass_name, again.limit) == (found.pass_name, found.limit)
    monkeypatch.setenv("LOWBIT_MAX_REWRITES", str(int(found.environment["LOWBIT_MAX_REWRITES"]) - 1))
    assert narrowed().verdict == "passes"


class Last(Small):
    """The product is the output."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1].down(torch.relu(self.layers[0](x)) @ torch.ones(64, 96))  # type: ignore[no-any-return, operator, union-attr]


class Writing(Small):
    """Writes to a buffer that it reads, so that a second run on the same storage gives other values everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(self.layers[0].up(x).abs().mean() + 5)  # type: ignore[operator, union-attr]
        return super().forward(x * self.seen)


class Drawing(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.layers[0](x) + torch.rand_like(x))


@pytest.mark.parametrize("kind", [Last, Writing, Drawing])
def test_a_site_before_the_plan(kind: type[Small], monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by comparing values, also where it is the output, and where two runs of one graph would differ."""
    sabotage(monkeypatch, "normalize", wrong_scale)
    torch.manual_seed(1)
    finding = bisect(kind().eval(), torch.randn(5, 64), plan="always", remainder="eager")
    assert finding.pass_name == "normalize"
    assert finding.site is not None, finding
    assert finding.site.module == TARGET, finding


def test_disabling_an_optional_pass_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, "prologue", wrong_scale)
    assert f"LOWBIT_DISABLE=prologue (then {6 + NATIVE} sites are rewritten)" in narrowed().workarounds


def test_second_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are told apart: the site is looked for in the one that is at fault."""

    class Broken(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layers[0](x)
            torch._dynamo.graph_break()
            return self.layers[2](self.layers[1](x))

    sabotage(monkeypatch, "quantize", wrong_scale)
    torch.manual_seed(1)
    finding = bisect(Broken().eval(), torch.randn(5, 64), plan="always", remainder="eager")
    assert (finding.graph, finding.graphs, finding.pass_name) == (1, 2, "quantize")
    assert finding.site is not None
    assert finding.site.module == TARGET


def test_nothing_wrong() -> None:
    finding = narrowed()
    assert (finding.verdict, finding.failed, finding.attempts) == ("passes", False, 1)
    assert "nothing is wrong" in str(finding)


def test_tolerance() -> None:
    """What a sound recipe costs is below a tolerance that asks for more."""
    assert narrowed(tolerance=60.0).pass_name == "quantize"


def test_inductor_is_told_from_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right in eager mode, wrong in what Inductor gets: the pass and the site from which on it is."""
    real = remainder.compile_remainder

    def wrong(gm: fx.GraphModule, examples: Any, kind: str, *rest: Any) -> Callable[..., Any]:
        run = real(gm, examples, "eager", *rest)
        low = any("linear_s8s8" in str(node.target) and node.meta.get("nn_module_stack") and _at(node) for node in gm.graph.nodes)
        return (lambda *args: tuple(-x for x in run(*args))) if kind == "inductor" and low else run

    monkeypatch.setenv("LOWBIT_DISABLE", "chain")  # products stay calls, which is what goes wrong here
    monkeypatch.setattr(finish, "compile_remainder", wrong)
    monkeypatch.setattr(Replay, "inductor_alone", lambda self: Outcome(100.0))
    finding = narrowed(remainder="inductor")
    assert (finding.verdict, finding.pass_name) == ("the remainder", "lower")
    assert finding.site is not None
    assert finding.site.module == TARGET


def spoil(gm: fx.Graph, *, everywhere: bool = True) -> None:
    """Negate every tanh, which no pass touches, as a bug of Inductor might; or only in graphs with a product of lowbit's."""
    if not everywhere and not any("lowbit.linear" in str(node.target) for node in gm.nodes):
        return
    for node in gm.find_nodes(op="call_function", target=aten.tanh.default):
        with gm.inserting_after(node):
            negated = gm.call_function(aten.neg.default, (node,))
        negated.meta.update(node.meta)
        node.replace_all_uses_with(negated, delete_user_cb=lambda user, negated=negated: user is not negated)  # type: ignore[misc]


@pytest.mark.model
def test_through_inductor() -> None:
    """Really: the same random numbers as in eager mode; and what Inductor spoils without lowbit is its own fault."""

    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(super().forward(x + torch.randn_like(x)))

    model, x = Noisy(64, 64).eval(), torch.randn(8, 64)
    assert bisect(model, x, plan="always").verdict == "passes"
    with torch._inductor.config.patch(post_grad_custom_post_pass=spoil):
        finding = bisect(model, x, plan="always")
    assert finding.verdict == "Inductor", finding
    with torch._inductor.config.patch(post_grad_custom_post_pass=lambda gm: spoil(gm, everywhere=False)):
        finding = bisect(model, x, plan="always")
    assert (finding.verdict, finding.pass_name) == ("the remainder", "lower"), finding


def _at(node: fx.Node) -> bool:
    return bool(list(node.meta["nn_module_stack"].values())[-1][0].endswith(TARGET))


def test_bad_options() -> None:
    """A mistake in an option is told as one, not blamed on the pass that met it."""
    with pytest.raises(OptionError, match="unknown recipe"):
        narrowed(recipe="int9")
    with pytest.raises(OptionError, match="nope"):
        narrowed(ignore=["nope"])
    for tolerance in (float("nan"), float("inf"), -1.0):
        with pytest.raises(OptionError, match=f"tolerance takes a number of dB >= 0, got {tolerance}"):
            narrowed(tolerance=tolerance)
