import torch


def named(events, name):
    for event in events:
        if event.name == name:
            yield event
        yield from named(event.children, name)


def test_events_know_the_tensors_that_an_op_was_called_with(surface):
    x, w = torch.randn(3, 8), torch.randn(8, 5)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler, torch.profiler.record_function("round"):
        torch.mm(x, w)
    (around,) = named(surface.roots(profiler), "round")
    (product,) = named(around.children, "aten::mm")
    assert surface.tensors(product, 2) == [((3, 8), surface.identity(x)), ((8, 5), surface.identity(w))]
    assert 0 < product.duration_time_ns <= around.duration_time_ns
    assert product.correlation_id >= 0
    assert any(event.device_type == surface.DeviceType.CPU for event in profiler.events())
