"""What processes gather of a weight is the weight that one process packs, whatever the format; writes are noticed, and bad calls refused."""

import copy
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowbit_compiler import gather_packed, prepare
from lowbit_compiler.errors import OptionError, WeightFreedError
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats import WORDS, operand
from lowbit_compiler.runtime.forms import Form, Packed, Saved
from lowbit_compiler.runtime.gathered import GatheredWeight
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.sharded import ShardedWeight
from lowbit_compiler.runtime.treatments import Nothing, Rotation

K = 100
POLICY = SimpleNamespace(param_dtype=None)
LOCAL = [
    one for word in WORDS if (one := operand(word, 32)) is not None
    if one.format.panels is not None and one.scale.row_local and not one.format.panels.behind
]  # fmt: skip


def weight(n: int) -> Tensor:
    return torch.randn(n, K, generator=torch.Generator().manual_seed(7))


def gathered(form: Form, w: Tensor, processes: int = 2, policy: Any = POLICY) -> Any:
    """Return what ``processes`` have that each hold a part of the rows of ``w``."""
    shards = [ShardedWeight(rows.clone(), form, release=False) for rows in w.chunk(processes)]
    mesh = SimpleNamespace(size=lambda: processes)
    sent = [shard.fsdp_pre_all_gather(mesh, w.shape, w.stride(), None, policy) for shard in shards]
    about = sent[0][1]
    result = shards[0].fsdp_post_all_gather(
        [torch.cat(each) for each in zip(*(x for x, _ in sent), strict=True)], about, policy.param_dtype or w.dtype
    )
    assert result is not None
    return result[0]


@pytest.mark.parametrize("rows", [32, 40], ids=["panels", "ragged"])
@pytest.mark.parametrize("one", LOCAL, ids=lambda one: one.name)
def test_codes_are_those_of_one_process(one: Any, rows: int) -> None:
    w = weight(2 * rows)
    for treatment in (Nothing(), Rotation()):
        form = Packed(one, treatment)
        both, (alone,) = gathered(form, w), form.made(w)
        n, k = len(w), treatment.padded(K)
        parts = torch.ops.lowbit.unpack(both.parts[0], one.spelling, list(one.arguments), n, k, rows)
        assert torch.equal(one.op("pack")(*parts, *one.arguments), alone)
        assert (rows % PANEL == 0) == (both.parts[0].shape == alone.shape and torch.equal(both.parts[0], alone))
        treated = one.dequantize(one.quantize(w if treatment == Nothing() else torch.ops.lowbit.rotate(w)))
        assert torch.equal(both @ torch.eye(K), treatment.untreated(lambda op, *args: op(*args), treated, K))


@pytest.mark.parametrize("form", [Saved(8, False), Saved(4, False), Saved(4, True)], ids=str)
def test_codes_of_training_are_those_of_one_process(form: Saved) -> None:
    w = weight(40)
    both = gathered(form, w)
    assert all(map(torch.equal, both.parts, form.made(w)))
    assert all(x is y for x, y in zip(torch.ops.lowbit.train_quantize(both, form.bits, form.rotated), both.parts, strict=True))
    step = w.abs().amax(1, keepdim=True) / (127 if form.bits == 8 else 7)
    assert form.rotated or ((both + 0 - w).abs() <= 0.51 * step).all()
    assert (both + 0 - w).norm() < (0.01 if form.bits == 8 else 0.2) * w.norm()


def test_rows_are_rounded_to_the_dtype_of_the_product_first() -> None:
    form, w = Saved(8, False), weight(32)
    both = gathered(form, w, policy=SimpleNamespace(param_dtype=torch.bfloat16))
    assert all(map(torch.equal, both.parts, form.made(w.bfloat16())))


def test_what_has_no_equal_parts_is_float(caplog: pytest.LogCaptureFixture) -> None:
    w = weight(33)
    padded = torch.nn.functional.pad(w, (0, 0, 0, 1))
    shards = [ShardedWeight(padded[start : start + 17][:rows], Saved(8, False), release=False) for start, rows in ((0, 17), (17, 16))]
    sent = [each.fsdp_pre_all_gather(SimpleNamespace(size=lambda: 2), w.shape, w.stride(), None, POLICY) for each in shards]
    assert torch.equal(torch.cat([matrices[0] for matrices, _ in sent])[:33], w)
    assert "33 rows cannot be cut into 2 equal parts" in caplog.text
    by_columns = ShardedWeight(w[:, :50].contiguous(), Saved(8, False), release=False)
    (same,), about = by_columns.fsdp_pre_all_gather(SimpleNamespace(size=lambda: 2), w.shape, w.stride(), None, POLICY)
    assert torch.equal(same, w[:, :50])
    assert by_columns.fsdp_post_all_gather([same], about, w.dtype) == (same, ())


def test_shards_are_float_to_all_others() -> None:
    w = weight(32)
    model = nn.Linear(K, 32)
    model.weight = nn.Parameter(ShardedWeight(w, Saved(8, False), release=False))
    assert torch.equal(model(w), nn.functional.linear(w, w, model.bias))
    assert type(copy.deepcopy(model).weight) is ShardedWeight
    assert copy.deepcopy(model).weight.plain.data_ptr() != w.data_ptr()
    file = io.BytesIO()
    torch.save(model.weight.detach(), file)
    file.seek(0)
    assert torch.equal(torch.load(file), w)


def test_shards_are_cut_under_inference_mode() -> None:
    """As FSDP2 does at the first call."""
    shard = ShardedWeight(weight(32), Saved(8, False), release=False)
    with torch.inference_mode():
        flat = shard.view(-1)
    assert type(flat) is ShardedWeight
    assert not flat.is_inference()


def test_a_model_that_is_converted_between_calls_is_refused() -> None:
    """FSDP2 copies bytes of the new dtype into buffers of the old one, of norms and biases too."""
    shard = ShardedWeight(weight(32).bfloat16(), Saved(8, False), release=False)
    sent, about = shard.fsdp_pre_all_gather(SimpleNamespace(size=lambda: 1), shard.shape, shard.stride(), None, POLICY)
    with pytest.raises(RuntimeError, match=r"weights are torch\.bfloat16, and FSDP2 gathers torch\.float32 since the first call"):
        shard.fsdp_post_all_gather(sent, about, torch.float32, out=weight(32))


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights_are_shards(assign: bool) -> None:
    state = Blocks().state_dict()
    model = copy.deepcopy(gather_packed(Blocks(), ignore=["head"]))
    model.load_state_dict(state, assign=assign)
    assert [type(block[0].weight) for block in model.blocks] == [ShardedWeight] * 2
    assert type(model.head.weight) is nn.Parameter
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_gathered_weight_is_read_as_a_parameter() -> None:
    both = gathered(Saved(8, False), weight(32))
    value, x = both + 0, weight(5)
    with pytest.raises(RuntimeError, match="write to the model's parameters between its calls"):
        both.mul_(2.0)
    assert torch.equal(torch.zeros(32, K).copy_(both), value)
    parameter, plain = nn.Parameter(both), nn.Parameter(value)
    assert type(parameter) is GatheredWeight
    for each in (parameter, plain):
        nn.functional.linear(x, each).square().sum().backward()
    assert type(parameter.grad) is Tensor
    assert torch.equal(parameter.grad, plain.grad)


def test_models_without_memory() -> None:
    with torch.device("meta"):
        model = gather_packed(Blocks())
    assert type(model.to_empty(device="cpu").head.weight) is ShardedWeight


def test_a_released_weight_is_not_read() -> None:
    shard = ShardedWeight(weight(32), Saved(8, False), release=True)
    for _ in range(2):
        shard.fsdp_pre_all_gather(SimpleNamespace(size=lambda: 1), shard.shape, shard.stride(), None, POLICY)
    with pytest.raises(WeightFreedError):
        shard + 1


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64)) for _ in range(2))
        self.head = nn.Linear(64, 32)


def test_which_weights_are_gathered() -> None:
    def taken(*args: Any, **options: Any) -> set[str]:
        return {name for name, each in gather_packed(Blocks(), *args, **options).named_parameters() if isinstance(each, ShardedWeight)}

    blocks = {"blocks.0.0.weight", "blocks.1.0.weight"}
    assert taken() == blocks | {"head.weight"}
    assert taken("int8", ignore=["head"]) == blocks
    assert taken("int4-training") == blocks
    assert taken("int8-training", ignore=["blocks.0"]) == blocks - {"blocks.0.0.weight"}


@pytest.mark.parametrize("recipe", ["int8", "int8-training"])
def test_tied_weights_stay_tied(recipe: str) -> None:
    model = Blocks()
    model.blocks.append(nn.Sequential(nn.Linear(64, 64)))
    first, second, third = (block[0] for block in model.blocks)
    second.weight = first.weight
    gather_packed(model, recipe)
    assert second.weight is first.weight
    assert type(third.weight) is ShardedWeight


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("int8-switchable",), "gather_packed takes formats with kernels, whose rows are packed alone"),
        (("mxfp4",), "gather_packed takes formats with kernels, whose rows are packed alone"),
        (("mxfp4-training",), "of those that train gather_packed takes int8-training, int4-training"),
        (("int9",), "unknown recipe 'int9'"),
        ((Recipe("mine", weights="nvfp4", activations="float"),), "recipe 'mine' has weights in"),
    ],
)
def test_recipes_that_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        gather_packed(Blocks(), *arguments)


def test_models_that_are_refused() -> None:
    with pytest.raises(OptionError, match=r"model takes a torch\.nn\.Module, got int"):
        gather_packed(3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"has no nn\.Linear that recipe 'int8' takes"):
        gather_packed(nn.ReLU())
    with pytest.raises(OptionError, match="gathered in low bits already"):
        gather_packed(gather_packed(Blocks()))
    with pytest.raises(OptionError, match=r"blocks\.0\.0 was prepared by lowbit\.prepare"):
        gather_packed(prepare(Blocks().eval(), "int8"))
    with pytest.raises(OptionError, match="free_weights: recipe 'int8-training' trains"):
        gather_packed(Blocks(), "int8-training", free_weights=True)
    with pytest.raises(OptionError, match="ignore 'none' matches none"):
        gather_packed(Blocks(), "int8-training", ignore=["none"])
