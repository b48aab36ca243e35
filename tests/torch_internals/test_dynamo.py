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
