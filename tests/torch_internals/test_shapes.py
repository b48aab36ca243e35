import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv


def symbol(mode):
    return mode.from_tensor(torch.ones(5, 8)).shape[0]


def test_what_is_not_known_adds_no_guard(surface):
    mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=False)
    size = symbol(mode)
    assert isinstance(size, torch.SymInt)
    assert surface.statically_known_true(size + 1 > size)
    assert surface.statically_known_true(True)
    assert not surface.statically_known_true(size == 5)
    assert not surface.statically_known_true(size == 6)
    assert not mode.shape_env.guards


def test_sizes_known_at_run_time_only(surface):
    shapes = ShapeEnv()
    unknown = shapes.create_unbacked_symint()
    assert not surface.guard_or_false(unknown == 4)
    assert surface.guard_or_true(unknown == 4)
    assert surface.guard_or_false(True)
    assert not surface.guard_or_true(False)


def test_sizes_made_meanwhile_leave_no_trace(surface):
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with surface.unmarked(mode), mode:
        torch.ones(6).nonzero()
    assert not mode.shape_env.pending_fresh_unbacked_symbols
    with surface.unmarked(None):
        pass


def test_export_takes_a_size_of_one_for_any(surface):
    class Double(torch.nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0], 4) * 2

    with surface.any_size_at_one():
        program = torch.export.export(Double(), (torch.ones(1, 2, 2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert program.module()(torch.ones(3, 2, 2)).shape == (3, 4)
