"""Tensor parallelism with scales that all processes share: what comes out is one device's, to the bit."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import parallel_llama, ranks
from helpers.compiled import compiled
from helpers.shared_scales import CASES, One, special
from helpers.tensor_parallel import apart, block, rows

SHARED = "scales are shared by 2 processes"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes saw."""
    return ranks.run("helpers.shared_scales:everything", tmp_path_factory.mktemp("ranks"))


def _one(model: torch.nn.Module, x: Tensor, recipe: str = "int8", **options: Any) -> Tensor:
    torch.compiler.reset()
    with torch.no_grad(), apart():
        return compiled(model, recipe, **options)(x)


def _same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["rows", "dynamic", "sequence"])
def test_the_block_is_one_device_s(found: list[dict[str, Any]], kind: str) -> None:
    x = rows().repeat(1, 3, 1)[:, :19] if kind == "dynamic" else rows()
    want = _one(block(), x)
    for each in found:
        up, down = each[kind]["sites"]
        assert (up[2], *down[2:]) == ("rewritten", "rewritten", SHARED)
        assert torch.equal(each[kind]["first"], want)
        assert torch.equal(each[kind]["second"], want)
        assert each[kind]["packed"][1] == 0
    assert found[0]["rows"]["packed"] == (2, 0)


@pytest.mark.parametrize("case", ["int8", "int8-vector", "float32"])
def test_special_rows_are_one_device_s(found: list[dict[str, Any]], case: str) -> None:
    k, dtype, recipe = CASES[case]
    want = _one(One(k, dtype), special(k, dtype), recipe)
    assert want.isnan().any()
    assert want.isinf().any()
    for each in found:
        assert [site[2:] for site in each[case]["sites"]] == [("rewritten", SHARED)]
        _same(each[case]["first"], want)
        _same(each[case]["second"], want)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("in blocks", "K / 2 = 100 is no multiple of 64, the columns that are rotated together"),
        ("uneven", "K = 257 is not cut into 2 equal parts"),
    ],
)
def test_own_scales_are_told(found: list[dict[str, Any]], case: str, why: str) -> None:
    k, dtype, _ = CASES[case]
    exact = One(k).linear(special(k, dtype))
    for each in found:
        assert [site[2:] for site in each[case]["sites"]] == [("rewritten", f"scales are each process's own: {why}")]
        finite = exact.isfinite().all(-1) & (special(k, dtype).abs().amax(-1) < 1e30)
        torch.testing.assert_close(each[case]["first"][finite], exact[finite], rtol=0.05, atol=0.05)


def test_parts_that_are_read_stay_parts(found: list[dict[str, Any]]) -> None:
    for each in found:
        own = ("rewritten", "scales are each process's own: its parts are read before they are added up")
        assert [site[2:] for site in each["parts"]["sites"]] == [own]
    exact = One(256).linear(special(256, torch.float32)[0])
    torch.testing.assert_close(sum(each["parts"]["first"] for each in found), exact, rtol=0.05, atol=0.05)


def test_no_process_decides_alone(found: list[dict[str, Any]]) -> None:
    """Each measures other times: of these its own products depend, not what it computes with others."""
    for each in found:
        assert each["measured"]["sites"][1][2:] == ("rewritten", SHARED)


@pytest.mark.parametrize(
    ("event", "packed"),
    [
        ("first", (2, 2)),
        ("unseen", (1, 1)),
        ("counted", (1, 1)),
        ("restored", (0, 0)),
        ("all", (1, 1)),
        ("exchanged", (1, 1)),
        ("half exchanged", (1, 1)),
        ("compiled anew", (0, 0)),
    ],
)
def test_what_one_process_does_all_notice(found: list[dict[str, Any]], event: str, packed: tuple[int, int]) -> None:
    model = block()
    model.down.weight.copy_(torch.cat([each["alone"][event][2] for each in found], 1))
    want = _one(model, rows())
    for each, count in zip(found, packed, strict=True):
        assert torch.equal(each["alone"][event][0], want)
        assert each["alone"][event][1] == count


def test_other_graphs_are_an_error(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["differ"].startswith("ProcessesDifferError: tp_scales='shared': the processes have compiled different graphs"), each


@pytest.mark.model
@pytest.mark.parametrize(
    ("plan", "world", "remainder"),
    [("auto", 2, "inductor"), ("parallelize_module", 2, "eager"), ("auto", 4, "eager"), ("parallelize_module", 4, "eager")],
)
def test_llama_is_one_device_s(tmp_path: Path, folder: Path, plan: str, world: int, remainder: str) -> None:
    """With all passes too, as far as the plan leaves them the same to do: torch's reads the last norm in a way of its own."""
    found = ranks.run("helpers.shared_scales:llama", tmp_path, str(folder), plan, remainder, world=world)
    for number, context in enumerate((apart, nullcontext)):
        torch.compiler.reset()
        with torch.no_grad(), context():
            want = parallel_llama.logits(compiled(parallel_llama.load(folder), remainder=remainder))
        for each in (both[number] for both in found):
            sites = {name: (what, detail) for name, kind, what, detail in each["sites"] if kind == "linear"}
            shared = dict.fromkeys(parallel_llama.BY_COLUMNS, ("rewritten", f"scales are shared by {world} processes"))
            assert sites == dict.fromkeys((*parallel_llama.BY_ROWS, parallel_llama.HEAD), ("rewritten", "")) | shared
            assert each["packed"] == ((4 * parallel_llama.LAYERS + 1, 0) if context is apart else (0, 0))
            assert torch.equal(each["first"], each["second"])
            if context is apart or plan == "auto":
                assert torch.equal(each["first"], want)
            else:
                torch.testing.assert_close(each["first"], want)
