"""Tensor parallelism: each process multiplies by what it holds of a weight, and what comes out is one device's, or a sum of such."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import ranks
from helpers.compiled import COSINE, compiled, cosine
from helpers.tensor_parallel import apart, block, emulated, rows


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes saw of the block."""
    return ranks.run("helpers.tensor_parallel:blocks", tmp_path_factory.mktemp("ranks"))


def _one(model: torch.nn.Module) -> Tensor:
    torch.compiler.reset()
    with torch.no_grad(), apart():
        return compiled(model)(rows())


@pytest.mark.parametrize("kind", ["sequence", "columns", "rows"])
def test_rewritten_and_packed_once(found: list[dict[str, Any]], kind: str) -> None:
    for each in found:
        assert [(name, what) for name, _, what, _ in each[kind]["sites"]] == [("up", "rewritten"), ("down", "rewritten")]
        assert each[kind]["packed"] == (2, 0)
        assert torch.equal(each[kind]["first"], each[kind]["second"])


def test_split_by_rows_is_one_device(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert torch.equal(each["columns"]["first"], _one(block()))


@pytest.mark.parametrize("kind", ["sequence", "rows"])
def test_split_by_columns_is_the_sum_of_the_parts(found: list[dict[str, Any]], kind: str) -> None:
    want = _one(emulated(block(), "down"))
    for each in found:
        assert torch.equal(each[kind]["first"], want)


def test_written_weights_are_noticed(found: list[dict[str, Any]]) -> None:
    model = block()
    for kind, packed in (("written", 1), ("unseen", 2)):
        if kind == "written":
            model.up.weight[:, 40] += 1.0
        else:
            model.down.weight.mul_(-0.5)
        for each in found:
            assert torch.equal(each[kind]["first"], _one(emulated(model, "down")))
            assert each[kind]["packed"] == packed


def test_what_is_no_local_product_is_declined(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert [site[2:] for site in each["declined"]["sites"]] == [
            ("declined", "tensor subclass DTensor [Shard(dim=1)], DTensor [Shard(dim=0)] -> DTensor [Shard(dim=2)]")
        ]
        torch.testing.assert_close(each["declined"]["first"], block().up(torch.cat([rows()] * 2, 1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["halved", "view"])
def test_weight_written_in_the_graph_stays_float(found: list[dict[str, Any]], kind: str) -> None:
    for each in found:
        case = each["writes"][kind]
        assert case["sites"] == [("declined", "the model writes to the weight")]
        assert all(map(torch.equal, case["got"], case["want"]))


def test_written_inputs_are_read_as_written(found: list[dict[str, Any]]) -> None:
    for each in found:
        eager, inductor = each["writes"]["eager"], each["writes"]["inductor"]
        assert eager["sites"] == inductor["sites"] == [("rewritten", "")]
        for got, other, want in zip(eager["got"], inductor["got"], eager["want"], strict=True):
            torch.testing.assert_close(other, got)  # the same integers
            assert cosine(got, want) > COSINE


def test_rounding_of_redistribute_is_kept(found: list[dict[str, Any]]) -> None:
    for each in found:
        case = each["writes"]["rounded"]
        assert [x.dtype for x in case["got"]] == [x.dtype for x in case["want"]] == [torch.bfloat16] * 2


def test_pending_backward_passes_are_left_alone(found: list[dict[str, Any]]) -> None:
    for each in found:
        gradient, want = each["pending"]
        assert gradient is not None
        torch.testing.assert_close(gradient, want)


def test_training_stays_float(found: list[dict[str, Any]]) -> None:
    for each in found:
        sites, got, want = each["tools"]["trained"]
        assert sites == [("declined", "tensor subclass DTensor [Replicate()], DTensor [Shard(dim=0)] -> DTensor [Shard(dim=1)]")]
        torch.testing.assert_close(got, want)


def test_local_products_are_measured(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["tools"]["measured"] == [("rewritten", True)]


def test_what_needs_whole_weights_refuses_parts(found: list[dict[str, Any]]) -> None:
    for each in found:
        for error, what in zip(each["tools"]["errors"], ("save the float model", "prepare the model", "prepare the model"), strict=True):
            assert (
                error
                == f"OptionError: weights of the model are sharded (linear.weight is a DTensor [Shard(dim=0)]); {what} before it is cut"
            )
