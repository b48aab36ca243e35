import ast
import importlib.util
from pathlib import Path

import pytest
import torch


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
    """Without torch_tensorrt's own import, which needs CUDA: dequantized weights would become float constants in silence."""
    found = importlib.util.find_spec(surface.PACKAGE)
    if found is None or found.origin is None:
        pytest.skip("torch_tensorrt is not installed: it needs CUDA")
    tree = ast.parse((Path(found.origin).parent / Path(*surface.FOLDING.split("."))).with_suffix(".py").read_text())
    (folder,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == surface.FOLDER]
    functions = {node.name: ast.unparse(node) for node in folder.body if isinstance(node, ast.FunctionDef)}
    assert f"self.{surface.KEPT}: Set[torch._ops.OpOverload] = set()" in functions["__init__"]
    assert f"node.target in self.{surface.KEPT}" in functions["is_impure"]
