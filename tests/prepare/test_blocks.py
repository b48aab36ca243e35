"""Blocks are found in any model, worked off one after the other, and gone on with after an interruption."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers import zoo
from helpers.prepared import INT4, Gated, correlated, equal, inputs, parts_of, stack
from lowbit_compiler.errors import OptionError
from lowbit_compiler.preparing import methods
from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.chain import block_lists
from lowbit_compiler.preparing.gptq import GPTQ, gptq


@pytest.fixture(scope="module")
def float_model() -> nn.Module:
    torch.manual_seed(0)
    return stack()


def prepared(model: nn.Module, data: Any = None, **options: Any) -> nn.Module:
    return lowbit.prepare(copy.deepcopy(model), INT4, inputs() if data is None else data, **options)


def names(model: nn.Module) -> list[list[str]]:
    return [[name for name, _ in blocks] for blocks in block_lists(model, [m for m in model.modules() if isinstance(m, nn.Linear)])]


def test_lists_of_blocks() -> None:
    assert names(stack(2)) == [["blocks.0", "blocks.1"]]
    assert names(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))) == []
    assert names(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))) == []
    assert names(nn.Sequential(Gated(), Gated())) == [["0", "1"]]
    experts = nn.ModuleList(nn.ModuleDict({"experts": nn.ModuleList(Gated() for _ in range(2))}) for _ in range(2))
    assert names(nn.ModuleDict({"layers": experts})) == [["layers.0", "layers.1"]]
    assert names(zoo.t5()[0]) == [["encoder.block.0", "encoder.block.1"], ["decoder.block.0", "decoder.block.1"]]


@pytest.mark.parametrize("sequential", [True, False])
def test_hessians_are_those_of_the_inputs_there_are(float_model: nn.Module, sequential: bool) -> None:
    """One by one, with hooks on runs of the whole model: what the float or the low-bit blocks before return."""
    model = prepared(float_model, sequential=sequential)
    plain = copy.deepcopy(float_model)
    for name in ("first", *(f"blocks.{i}.{leaf}" for i in range(3) for leaf in ("up", "gate", "down"))):
        layer, read = plain.get_submodule(name), list[Tensor]()
        hook = layer.register_forward_pre_hook(lambda module, args, read=read: read.append(args[0].flatten(0, -2)))
        for x in inputs():
            plain(x)
        hook.remove()
        rows = torch.cat(read)
        weights = [layer.weight]
        want = gptq(torch.cat(weights), rows.t() @ rows / len(rows), INT4.plan.w)
        assert want is not None
        own = parts_of(model)[name].parts
        different = float((own[0] != want[0]).float().mean())
        assert different < 0.01  # sums in another order
        if sequential and name.endswith("down"):
            for leaf in ("up", "gate", "down"):
                one = plain.get_submodule(f"{name.rpartition('.')[0]}.{leaf}")
                given = parts_of(model)[f"{name.rpartition('.')[0]}.{leaf}"].parts
                one.forward = lambda x, one=one, given=given: INT4.plan.emulate(x, given, one.bias)  # type: ignore[method-assign, misc]
        if sequential and name == "first":
            layer.forward = lambda x, layer=layer, own=own: INT4.plan.emulate(x, own, layer.bias)  # type: ignore[method-assign, misc]


def test_the_same_every_time_and_from_files(float_model: nn.Module, tmp_path: Path) -> None:
    model = prepared(float_model)
    assert equal(model, prepared(float_model))
    assert equal(model, prepared(float_model, cache_dir=tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []
    assert not equal(model, prepared(float_model, sequential=False))
    assert not equal(model, prepared(float_model, methods=()))


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("after", [0, 2])
def test_goes_on_after_an_interruption(
    float_model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequential: bool, after: int
) -> None:
    whole = prepared(float_model, sequential=sequential)
    done: list[str] = []
    apply = GPTQ.apply

    def interrupted(self: GPTQ, block: Block) -> None:
        if len(done) > after:
            raise KeyboardInterrupt
        apply(self, block)
        done.append(block.name)

    model = copy.deepcopy(float_model)
    with monkeypatch.context() as patch:
        patch.setattr(GPTQ, "apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lowbit.prepare(model, INT4, inputs(), sequential=sequential, checkpoint=tmp_path)
    assert not parts_of(model)
    assert all("forward" not in vars(module) for module in model.modules())
    assert len(list(tmp_path.glob("block-*.pt"))) == after + 1
    (tmp_path / ".block-0003.pt.rest").mkdir()  # what a kill leaves beside
    again: list[str] = []

    def counted(self: GPTQ, block: Block) -> None:
        again.append(block.name)
        apply(self, block)

    monkeypatch.setattr(GPTQ, "apply", counted)
    resumed = lowbit.prepare(model, INT4, inputs(), sequential=sequential, checkpoint=tmp_path)
    assert equal(whole, resumed)
    assert not set(again) & set(done)
    assert len(again) == 4 - len(done)


def test_a_checkpoint_is_of_one_preparation(float_model: nn.Module, tmp_path: Path) -> None:
    prepared(float_model, checkpoint=tmp_path)
    for other in ({"data": inputs(3)}, {"sequential": False}, {"methods": ()}):
        with pytest.raises(OptionError, match="is of another model, recipe, data or settings"):
            prepared(float_model, checkpoint=tmp_path, **other)
    (tmp_path / "about.json").write_text("nothing")
    with pytest.raises(OptionError, match="checkpoint takes a folder of its own"):
        prepared(float_model, checkpoint=tmp_path)


class Nested(nn.Module):
    """Blocks that are never called, called twice, or given what other blocks returned otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Gated() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        x = self.blocks[1](x * 1.0)
        return self.blocks[1](self.blocks[2](x))


def test_any_order_of_blocks() -> None:
    torch.manual_seed(0)
    model = Nested().eval().requires_grad_(False)
    x = [correlated(60, 64, seed).view(2, 30, 64) for seed in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lowbit_compiler.preparing.prepare.log.warning", lambda *args: None)
        lowbit.prepare(model, INT4, x)
    assert {name for name, one in parts_of(model).items() if one.method == "nearest"} == {
        f"blocks.3.{leaf}" for leaf in ("up", "gate", "down")
    }


@pytest.mark.parametrize("name", ["t5", "bert", "opt"])
def test_families(name: str) -> None:
    """Encoder and decoder, masks, residuals after norms: every linear is prepared with data, and the float model does what it did."""
    model, kwargs = getattr(zoo, name)()
    model.requires_grad_(False)
    want = model(**kwargs)[0]
    lowbit.prepare(model, INT4, [kwargs])
    assert torch.equal(model(**kwargs)[0], want)
    assert len(parts_of(model)) > 6
    assert all(one.method == "gptq" for one in parts_of(model).values())


def test_methods_are_listed_once() -> None:
    assert len(set(methods.NAMES)) == len(methods.METHODS)
    assert repr(methods.METHODS) == (
        "(outlier_tune, awq, gptq, FlexRound(steps=200, rate=0.003), LearnedScales(steps=200, rate=0.1, mixed=0.5), bias_correction)"
    )  # checkpoints rest on it
