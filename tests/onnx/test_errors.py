"""What cannot be exported is said in one sentence, with module and op, and no file appears."""

import re
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.graphs import TwoLinears
from helpers.onnx_files import Exported
from lowbit_compiler.capture.shapes import parse_dynamic
from lowbit_compiler.errors import ExportError, MissingPackageError, OptionError
from lowbit_compiler.exits import onnx as onnx_exit
from lowbit_compiler.exits.onnx import stored, verify
from lowbit_compiler.exits.onnx.labels import rename_symbols

X = torch.randn(2, 96)


def refused(path: Path, model: Any = None, inputs: Any = (X,), **options: Any) -> str:
    """Return the words of the OptionError that the export raises; nothing may be written."""
    with pytest.raises(OptionError) as error:
        lowbit.export_onnx(model if model is not None else TwoLinears().eval(), inputs, path, **options)
    assert not path.exists()
    return str(error.value)


def test_options(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert "opset takes 21 to 25, got 18: int4 and blocked scales exist from opset 21 on" in refused(
        path, opset=18, recipe="int4-weight-only"
    )
    assert "form takes 'integer' or 'qdq', got 'int'" in refused(path, form="int")
    assert "unknown recipe 'int9'" in refused(path, recipe="int9")
    assert "option 'free_weights' does not apply to an ONNX export" in refused(path, free_weights=True)
    assert "ignore 'nothing' matches no module" in refused(path, ignore=["nothing"])
    assert "model takes a torch.nn.Module, got function" in refused(path, model=lambda x: x)
    assert "inputs takes a tensor, a sequence of arguments or a mapping of keywords, got int" in refused(path, inputs=3)
    assert "is no folder that can be written to" in refused(tmp_path / "missing" / "model.onnx")


class Keywords(nn.Module):
    """A model with a number and with any other keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(96, 64)

    def forward(self, x: Tensor, scale: int = 2, **more: Tensor) -> Tensor:
        return self.inner(x) * scale + sum(more.values())


def test_inputs_and_dynamic_shapes(tmp_path: Path) -> None:
    path, model = tmp_path / "model.onnx", Keywords().eval()
    inputs = {"x": X, "scale": 3}
    for dynamic in (torch.export.Dim.DYNAMIC, {0: "scale"}, "scale"):
        assert "'scale' is no tensor but 3" in refused(path, model, inputs, dynamic_shapes={"scale": dynamic})
    assert "inputs have no argument 'y'; they have: x, scale" in refused(path, model, inputs, dynamic_shapes={"y": {0: "rows"}})
    assert "or one entry for each of: x, scale" in refused(path, model, inputs, dynamic_shapes=({0: "rows"},))
    assert "'x' has the shape (2, 96), no dimension 2" in refused(path, model, inputs, dynamic_shapes={"x": {2: "rows"}})
    assert "'x' has the shape (2, 96), no dimension -2 counted from 0" in refused(path, model, inputs, dynamic_shapes={"x": {-2: "rows"}})
    assert "a dimension's name is a word such as 'batch', got 'a b'" in refused(path, model, inputs, dynamic_shapes={"x": {0: "a b"}})
    assert "missing a required argument: 'x'" in refused(path, model, {"scale": 3})
    more = refused(path, model, {"x": X, "y": X[:, :64]}, dynamic_shapes={"x": {0: "rows"}, "y": {0: "rows"}})
    assert "Keywords.forward takes 'y' by **more, for which torch.export has no dynamic shapes" in more
    lowbit.export_onnx(model, {"y": X[:, :64], **inputs}, path, verify=True)


def test_inputs_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert "'x' has the shape (0, 96), which holds nothing to run the model on; give rows" in refused(path, inputs=(X[:0],))
    assert "'x' has the shape (1, 0, 96)" in refused(path, inputs=(torch.zeros(1, 0, 96),))


def test_training_mode(tmp_path: Path) -> None:
    """Whatever a module of one's own does in training would be in the file, so none may be."""
    path, model = tmp_path / "model.onnx", nn.Sequential(nn.Linear(96, 96), Keywords()).eval()
    model[1].training = True
    assert "module '1' is in training mode; call model.eval()" in refused(path, model)
    assert "module 'Keywords' is in training mode" in refused(path, Keywords())


def test_bfloat16_is_not_verified(tmp_path: Path) -> None:
    path, model = tmp_path / "model.onnx", nn.Linear(96, 64, dtype=torch.bfloat16).eval()
    assert "for which ONNX Runtime's CPU provider lacks most operators" in refused(path, model, X.bfloat16(), verify=True)


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x)


def test_complex_numbers(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is complex, which ONNX Runtime has no operators for"):
        lowbit.export_onnx(Spectrum().eval(), X, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_names_of_dimensions_do_not_collide() -> None:
    """A user's name is also that of another symbol, which gets a new one."""
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 21}), ir_version=10)
    for name, shape in (("a", ["s1", "s2 + s1", "s1_2"]), ("b", ["s2", 4])):
        model.graph.inputs.append(ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)))
    rename_symbols(model, {"s2": "s1"})
    assert [str(value.shape) for value in model.graph.inputs] == ["[s1_3,s1 + s1_3,s1_2]", "[s1,4]"]


def test_dynamic_of_the_command_line() -> None:
    assert parse_dynamic(["x:0=batch,1=length", "y:0=batch"]) == {"x": {0: "batch", 1: "length"}, "y": {0: "batch"}}
    assert parse_dynamic([]) is None
    limited = parse_dynamic(["x:0=batch:8,1=length"])
    assert limited is not None
    assert (limited["x"][0].__name__, limited["x"][0].max, limited["x"][1]) == ("batch", 8, "length")
    with pytest.raises(OptionError, match=r"argument:axis=name,axis=name or, with a largest size, axis=name:size, got 'x=0'"):
        parse_dynamic(["x=0"])
    with pytest.raises(OptionError, match=r"--dynamic names 'x' twice; write x:0=batch,1=length"):
        parse_dynamic(["x:0=batch", "x:1=length"])


class Digamma(nn.Module):
    """A model with one op that ONNX does not have, two modules down."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(96, 64), _Op())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class _Op(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.digamma(x)


def test_unsupported_op_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=r"no ONNX translation for aten\.digamma\.default in inner\.1: "):
        lowbit.export_onnx(Digamma().eval(), (X,), path)
    assert not list(tmp_path.iterdir())


class Branch(nn.Module):
    """Control flow on data, which torch.export refuses."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_untraceable_model(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"torch\.export cannot trace Branch: "):
        lowbit.export_onnx(Branch().eval(), (X,), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["check", "verify"])
def test_failure_leaves_what_was_there(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    if broken == "check":
        save = stored.ir.save

        def shortened(model: Any, target: Path, **options: Any) -> None:
            model.graph.outputs[0].dtype = stored.ir.DataType.INT32
            save(model, target, **options)

        monkeypatch.setattr(stored.ir, "save", shortened)
    else:
        wrong = verify.Difference("o", "", 1.0, 1.0, 0.0)
        monkeypatch.setattr(verify, "compare", lambda *_: verify.Verification([wrong], []))
    with pytest.raises(ExportError, match="checker of onnx" if broken == "check" else "does not compute what PyTorch does"):
        lowbit.export_onnx(TwoLinears().eval(), (X,), path, verify=broken == "verify")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"before"


def test_large_weights_go_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a name of their own, so that a model never reads those of another; those of the model before are removed."""
    monkeypatch.setattr(stored, "LARGE", 1000)
    path = tmp_path / "model.onnx"
    names = []
    for _ in range(2):
        model = TwoLinears().eval()
        lowbit.export_onnx(model, (X,), path, verify=True)
        (data,) = (file for file in tmp_path.iterdir() if file != path)
        names.append(data.name)
        assert data.stat().st_size > sum(p.numel() for p in (model.q.weight, model.k.weight, model.o.weight))
    assert lowbit.verify_onnx(path, model, (X,)).agrees
    assert names[0] != names[1]
    assert all(re.fullmatch(r"model\.onnx\.[0-9a-f]{16}\.data", name) for name in names)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_exit, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(MissingPackageError, match=r"needs no_such_package: pip install lowbit-compiler\[onnx\]"):
        onnx_exit.require()


class Counter(nn.Module):
    """A model that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.linear = nn.Linear(96, 64)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.linear(x)


class Sized(nn.Module):
    """A model that returns a number beside a tensor."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"y": x + 1, "rows": x.shape[0]}


def test_state_and_numbers_are_refused(tmp_path: Path) -> None:
    counter = Counter().eval()
    with pytest.raises(ExportError, match="buffer 'calls' is written to, and a file keeps no state"):
        lowbit.export_onnx(counter, (X,), tmp_path / "model.onnx", verify=True)
    assert counter.calls == 0
    with pytest.raises(ExportError, match="output 'rows' is a number"):
        lowbit.export_onnx(Sized().eval(), (X,), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="output 'rows' is a number"):
        lowbit.export_onnx(Sized().eval(), (X,), tmp_path / "model.onnx", dynamic_shapes=({0: "rows"},))
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any, path: Path, **__: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(stored.ir, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lowbit.export_onnx(nn.Linear(96, 64).eval(), (X,), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any, path: Path, **__: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored.ir, "save", full)
    with pytest.raises(ExportError, match=r"cannot write .*model\.onnx.*No space left on device"):
        lowbit.export_onnx(nn.Linear(96, 64).eval(), (X,), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_keywords_in_any_order_give_the_same_inputs(tmp_path: Path) -> None:
    class Difference(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a @ b.t()

    a, b = torch.randn(2, 5), torch.randn(3, 5)
    shapes = {"a": {0: "left"}, "b": {0: "right"}}
    exported = Exported(tmp_path, Difference().eval(), {"b": b, "a": a}, dynamic_shapes=shapes)
    assert [given.name for given in exported.proto.graph.input] == ["a", "b"]
    assert exported.agreement({"b": b[:2], "a": a}).agrees
