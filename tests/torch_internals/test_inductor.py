import torch
from torch import fx


def graph():
    g = fx.Graph()
    x = g.placeholder("x")
    g.output((g.call_function(torch.relu, (x,)),))
    return fx.GraphModule(torch.nn.Module(), g)


def test_a_graph_is_compiled_for_its_examples(surface):
    x = torch.randn(7, 5)
    with torch.no_grad():
        (y,) = surface.compile_graph(graph(), [x], None)(x)
    assert torch.equal(y, torch.relu(x))


def test_every_mode_of_torch_compile_is_there(surface):
    assert {"default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"} <= set(surface.modes())
    assert all(isinstance(settings, dict) for settings in surface.modes().values())


def test_the_settings_that_lowbit_uses_exist(surface):
    from torch._inductor import config

    before = config.fallback_random
    with surface.settings({"fallback_random": not before, "cpp.enable_kernel_profile": True, "cpp_wrapper": True}):
        assert config.fallback_random is not before
        assert config.cpp.enable_kernel_profile
    assert config.fallback_random is before


def test_the_debug_folder_is_there_where_somebody_asked(surface):
    assert surface.debug_folder() is None
    with surface.settings({"trace.enabled": True}):
        assert surface.debug_folder()
