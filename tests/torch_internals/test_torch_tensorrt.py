import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

ONES = torch.ones(2)


def source(surface):
    """Return the folder of the package, which is not imported: that needs CUDA."""
    found = importlib.util.find_spec(surface.PACKAGE)
    if found is None or found.origin is None:
        pytest.skip("torch_tensorrt is not installed: it needs CUDA")
    return Path(found.origin).parent


def test_what_is_missing_is_said(surface, monkeypatch):
    monkeypatch.setattr(surface, "PACKAGE", "no_such_package")
    assert surface.unusable() == "no_such_package is not installed"
    monkeypatch.setattr(surface, "PACKAGE", "torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert surface.unusable() == "torch needs a CUDA device"


def test_a_folder_keeps_our_ops(surface):
    class Folder:
        def __init__(self, given):
            self.given, self.quantization_ops = given, {"theirs"}

    surface.keep(Folder, ["ours"])
    assert Folder(3).quantization_ops == {"theirs", "ours"}
    assert Folder(3).given == 3


def test_the_folder_has_a_set_of_ops_that_it_leaves_alone(surface):
    """Else dequantized weights would become float constants in silence."""
    tree = ast.parse((source(surface) / Path(*surface.FOLDING.split("."))).with_suffix(".py").read_text())
    (folder,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == surface.FOLDER]
    functions = {node.name: ast.unparse(node) for node in folder.body if isinstance(node, ast.FunctionDef)}
    assert f"self.{surface.KEPT}: Set[torch._ops.OpOverload] = set()" in functions["__init__"]
    assert f"node.target in self.{surface.KEPT}" in functions["is_impure"]


def test_a_converter_is_given_arrays_and_what_keeps_them(surface, monkeypatch):
    """In its own calling convention: the constants of a graph that is converted where all tensors are fake."""
    found = {}

    def declare(op, *, capability_validator, supports_dynamic_shapes):
        assert supports_dynamic_shapes
        return lambda converter: found.update({op: (capability_validator, converter)})

    library = SimpleNamespace()
    modules = {"torch_tensorrt.dynamo.conversion": SimpleNamespace(dynamo_tensorrt_converter=declare), "tensorrt": library}
    monkeypatch.setattr(surface.importlib, "import_module", modules.__getitem__)
    surface.register({"op": (lambda *given: given, lambda node: node == "node")})
    fits, convert = found["op"]
    assert fits("node", None)
    assert not fits("another", None)
    context = SimpleNamespace(net="network", cpu_weights_reference_holder=[])
    with FakeTensorMode(allow_non_fake_inputs=True):
        trt, net, kept, name, (array, value, number) = convert(context, "op", (ONES, "value", 3), {}, "name")
    assert (trt, net, name, value, number) == (library, "network", "name", "value", 3)
    assert kept is context.cpu_weights_reference_holder
    assert array.tolist() == ONES.tolist()


def test_what_is_compiled_computes_as_torch_does(surface, monkeypatch):
    """TF32 only where torch takes it; the backend has a name, and takes options."""
    given = []
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: lambda gm, examples, options: given.append((name, options)))
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            surface.compile_graph(None, ())
    finally:
        torch.set_float32_matmul_precision(before)
    assert [options["disable_tf32"] for _, options in given] == [True, False]
    assert {name for name, _ in given} == {"torch_tensorrt"}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("dynamo/_settings.py", ("disable_tf32: bool", "decompose_attention: bool")),
        ("dynamo/conversion/__init__.py", ("from ._ConverterRegistry import *",)),
        ("dynamo/conversion/_ConversionContext.py", ("net: TRTNetwork", "cpu_weights_reference_holder: list")),
        (
            "dynamo/conversion/_ConverterRegistry.py",
            ("def dynamo_tensorrt_converter(", "capability_validator(", "supports_dynamic_shapes: bool"),
        ),
    ],
)
def test_its_source_has_what_converters_are_registered_by(surface, path, text):
    file = source(surface) / path
    for each in text:
        assert each in file.read_text()
