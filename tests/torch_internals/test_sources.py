import sys

import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(4))
        self.shift = torch.ones(4)

    def forward(self, x):
        x = x * self.scale + self.shift
        torch._dynamo.graph_break()
        return self.inner(x)


class Asking(Layer):
    def __getattr__(self, name):
        return super().__getattr__(name)


def traces(surface, model):
    """Return, for each graph: what is traced, the modules met, the placeholders with their inputs, and the code of all callers."""
    seen = []

    def backend(gm, examples):
        frame, codes = sys._getframe(), []
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
        placeholders = gm.graph.find_nodes(op="placeholder")
        seen.append((surface.traced(), surface.met_modules(), gm, list(zip(placeholders, examples, strict=True)), codes))
        return gm.forward

    with torch.no_grad():
        torch.compile(model, backend=backend)(torch.ones(2, 4))
    return seen


def test_inputs_are_the_parameters_and_say_where_they_come_from(surface):
    for model in (Layer(), Asking()):
        torch.compiler.reset()
        first, second = traces(surface, model)
        held = {id(x): name for name, x in [*model.named_parameters(), *model.named_buffers(), ("shift", model.shift)]}
        for *_, inputs, _ in (first, second):
            for node, example in inputs:
                assert surface.is_static(node) == (id(example) in held)
                assert held.get(id(example), "x").rpartition(".")[2] in surface.source_text(node)
        static = {held[id(example)] for *_, inputs, _ in (first, second) for node, example in inputs if surface.is_static(node)}
        assert static == {"scale", "shift", "inner.weight", "inner.bias"}


def test_modules_are_told_by_identity(surface):
    model = Layer()
    _, (_, met, gm, _, _) = traces(surface, model)
    assert {id(module) for module, _ in met} == {id(model), id(model.inner)}
    assert all(text for _, text in met)
    stacks = [node.meta["nn_module_stack"] for node in gm.graph.nodes if node.op == "call_function" and "nn_module_stack" in node.meta]
    assert stacks
    assert {surface.module_id(key) for stack in stacks for key in stack} == {id(model.inner)}
    assert surface.module_id("L__self___inner") is None


def test_the_traced_function_and_what_called_it(surface):
    first, second = traces(surface, Layer())
    assert first[0].code is Layer.forward.__code__
    assert not surface.is_continuation(first[0].code)
    assert surface.is_continuation(second[0].code)
    assert all(any(isinstance(value, Layer) for value in graph[0].variables.values()) for graph in (first, second))
    assert first[0].globals["Layer"] is Layer
    assert surface.traced() is None
    assert surface.met_modules() == []
    files = [code.co_filename for code in first[4]]
    inner = max(index for index, file in enumerate(files) if surface.is_dynamo(file))
    outer = [file for file in files[inner + 1 :] if surface.is_entry(file)]
    assert outer, "torch.compile's own frames lie outside of Dynamo's"
    assert all(surface.is_calling(file) for file in files[inner + 1 : files.index(outer[-1], inner)])


def test_closed_over_and_global_modules_are_variables(surface):
    model = nn.Linear(4, 4)
    ((now, *_),) = traces(surface, lambda x: model(x))
    assert now.variables["model"] is model


def test_what_torch_compile_returns_holds_the_module(surface):
    model = nn.Linear(4, 4)
    assert torch.compile(model)._modules[surface.WRAPPED] is model


def test_variables_of_sources(surface):
    assert surface.variable("L['up']") == "up"
    assert surface.variable("L['blocks'][1]") == "blocks.1"
    assert surface.variable("G['held']['model'].inner") == "held.model.inner"
