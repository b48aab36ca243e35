import os
import shutil

import pytest
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


def test_the_probe_fills_what_inductor_reads(surface, monkeypatch):
    from torch._inductor import codecache, cpu_vec_isa

    def asked():
        info = cpu_vec_isa.valid_vec_isa_list.cache_info()
        return info.hits + info.misses

    keys = []
    key = codecache.torch_key
    monkeypatch.setattr(codecache, "torch_key", lambda: keys.append(key()))
    monkeypatch.setattr(surface, "_probes", [])
    before = asked()
    surface.probe()
    surface.probe()
    (thread,) = surface._probes
    thread.join()
    assert asked() == before + 1
    assert len(keys) == 1
    assert isinstance(keys[0], bytes)
    assert key() is keys[0], "it is remembered"


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


@pytest.mark.skipif(shutil.which(os.environ.get("CXX") or "g++") is None, reason="no C++ compiler")
def test_a_program_is_packaged_and_loaded(surface, tmp_path):
    """With its constants and what is said of it, and all files on the way in the folder of the package."""
    from torch._inductor import config

    model, x, path = torch.nn.Linear(5, 30).eval(), torch.randn(7, 5), tmp_path / "model.pt2"
    model.weight = torch.nn.Parameter(torch.randn(1_000_000)[:150].view(30, 5))
    surface.package(torch.export.export(model, (x,)), path, {"said": "of it"})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["files", "model.pt2"]
    assert list((tmp_path / "files").glob("*.so"))
    assert path.stat().st_size > 4_000_000, "all the memory of a view is there: why lowbit_compiler/exits/package.py copies views"
    assert not config.aot_inductor.output_path
    loaded = torch._inductor.aoti_load_package(str(path))
    assert loaded.get_metadata()["said"] == "of it"
    assert sorted(loaded.get_constant_fqns()) == ["bias", "weight"]
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
