import pytest
import torch


def test_a_backend_that_asks_for_it_gets_the_function_traced_again(surface):
    from torch._dynamo.exc import TensorifyScalarRestartAnalysis  # what AOTAutograd raises

    assert issubclass(TensorifyScalarRestartAnalysis, surface.restart())
    traced = []

    def backend(gm, examples):
        traced.append(gm)
        if len(traced) == 1:
            raise TensorifyScalarRestartAnalysis(restart_reason="once more")
        return gm.forward

    assert torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(1)) == 1
    assert len(traced) == 2


def test_what_a_backend_raises_is_found_below_what_is_wrapped_around_it(surface):
    def backend(gm, examples):
        raise LookupError("ours")

    with pytest.raises(Exception, match="ours") as raised:
        torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(1))
    assert not isinstance(raised.value, LookupError)
    assert isinstance(surface.inner(raised.value), LookupError)
    error = ValueError()
    assert surface.inner(error) is error


def test_the_limit_on_recompilations(surface):
    from torch._dynamo import config

    with config.patch(recompile_limit=3):
        surface.allow_recompilations(77)
        assert config.recompile_limit == 77


def test_compilations_are_numbered(surface):
    seen = []

    def backend(gm, examples):
        seen.append(surface.compile_id())
        return gm.forward

    torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(1))
    assert seen
    assert seen[0].count("/") == 1, "frame/graph"
    assert surface.compile_id() == ""


class Scaled(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor, self.inner = factor, torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) * self.factor


@pytest.mark.parametrize("dynamic", [True, None])
def test_floats_of_modules_are_constants_until_they_change(surface, dynamic):
    traced = []

    def backend(gm, examples):
        with surface.held_floats_constant(gm):
            pass
        inputs = [node.meta["example_value"] for node in gm.graph.find_nodes(op="placeholder")]
        traced.append([value for value in inputs if isinstance(value, torch.Tensor) and value.dtype == torch.float64])
        return gm.forward

    torch.compiler.reset()
    with torch.no_grad():
        model = Scaled(2.0)
        run, x = torch.compile(model, backend=backend, dynamic=dynamic), torch.randn(3, 4)
        for factor in (2.0, 2.0, 3.0, 4.0, 5.0):
            model.factor = factor
            assert torch.equal(run(x), model(x))
    assert [len(floats) for floats in traced] == [0, 1], "a constant, then an input of one graph for all numbers"


def test_dynamo_forgets_which_floats_were_constants(surface):
    from torch._dynamo.symbolic_convert import TensorifyState

    def backend(gm, examples):
        with surface.held_floats_constant(gm):
            assert TensorifyState.force_specializations, "the second trace"
            raise LookupError("ours")

    torch.compiler.reset()
    with torch.no_grad(), pytest.raises(Exception, match="ours"):
        torch.compile(Scaled(2.0), backend=backend, dynamic=True)(torch.randn(3, 4))
    assert not TensorifyState.force_specializations


def test_floats_of_the_caller_stay_inputs(surface):
    traced = []

    def backend(gm, examples):
        with surface.held_floats_constant(gm):
            traced.append(gm)
        return gm.forward

    torch.compiler.reset()
    run = torch.compile(lambda x, factor: x * factor, backend=backend, dynamic=True)
    for factor in (2.0, 3.0):
        assert torch.equal(run(torch.ones(3), factor), torch.full((3,), factor))
    assert len(traced) == 1


def freezing(surface):
    """Return a backend that freezes modules, and the list of what it is given; Dynamo starts anew."""
    traced = []

    def backend(gm, examples):
        surface.freeze_modules()
        traced.append(gm)
        return gm.forward

    torch.compiler.reset()
    return backend, traced


def test_frozen_modules_are_told_apart_and_not_looked_into(surface):
    backend, traced = freezing(surface)
    with torch.no_grad():
        models, x = [Scaled(2.0), Scaled(3.0)], torch.randn(3, 4)
        runs = [torch.compile(model, backend=backend) for model in models]
        for run, model in zip(runs, models, strict=True):
            assert torch.equal(run(x), model(x))
            assert torch.equal(run(x), model(x))
        assert len(traced) == 2, "another module of the same code is another graph"
        before = runs[0](x)
        models[0].factor = 5.0
        assert torch.equal(runs[0](x), before), "what a module holds is not looked at"
        assert len(traced) == 2
        assert runs[0](x[:2]).shape == (2, 4), "inputs still are"
        assert len(traced) == 3


def test_modules_in_a_function_are_frozen_too(surface):
    (backend, traced), models, x = freezing(surface), [Scaled(2.0), Scaled(3.0)], torch.randn(3, 4)
    with torch.no_grad():
        run = torch.compile(lambda model, x: model(x) + 1, backend=backend)
        for model in (*models, *models):
            assert torch.equal(run(model, x), model(x) + 1)
    assert len(traced) == 2


def test_nothing_is_frozen_outside_of_a_compilation(surface):
    surface.freeze_modules()


def test_inputs_that_stay_in_place_are_marked(surface):
    tensors = torch.zeros(2), torch.zeros(3)
    surface.stays_in_place(*tensors)
    assert all(hasattr(tensor, "_dynamo_static_input_type") for tensor in tensors)
    assert torch.compile(lambda x: x.add_(1), backend="eager")(tensors[0])[0] == 1
