import torch
from torch import nn


def test_placeholders_say_where_they_come_from(surface):
    seen = []

    def backend(gm, examples):
        seen.append((list(gm.graph.find_nodes(op="placeholder")), surface.frame_locals()))
        return gm.forward

    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    torch.compile(model, backend=backend)(torch.ones(2, 3))
    ((placeholders, local),) = seen
    texts = [surface.source_text(node) for node in placeholders]
    assert any("_modules['0']._parameters['weight']" in text for text in texts)
    static = [text for node, text in zip(placeholders, texts, strict=True) if surface.is_static(node)]
    assert any("running_mean" in text for text in static)
    assert len(static) == len(texts) - 1, "all but the input"
    assert any(value is model for value in local.values())
    assert surface.frame_locals() == {}
