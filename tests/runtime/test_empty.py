"""No rows, no batch: every op answers with an empty result of the right shape, with the library and without."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

import lowbit_compiler as lowbit
from helpers import forks, plain
from helpers.plain import pack_s4, pack_s8, unpack_s4, unpack_s8
from lowbit_compiler.recipes import RECIPES, Recipe
from lowbit_compiler.runtime.before import PROLOGUE
from lowbit_compiler.runtime.ops import LINEAR_SCHEMAS, linear_reference
from lowbit_compiler.runtime.products import PRODUCTS, weight_of
from lowbit_compiler.runtime.reference import exported, softmax
from lowbit_compiler.runtime.require import FLOATS

K, N, GROUP = 70, 20, 32
LEADING = [(0,), (0, 3), (3, 0), (2, 0, 1)]
Make = Callable[[tuple[int, ...], torch.dtype], tuple[Any, ...]]


def packed(op: str) -> Tensor:
    one = weight_of(op, {"group": GROUP})
    made = torch.zeros(one.packed_rows(N), one.panel_bytes(K), dtype=torch.int8)
    for width in one.format.widths[-1:]:
        one.format.panels.switch(made, width)
    return made


def weight(dtype: torch.dtype = torch.int8) -> Tensor:
    return torch.zeros(K, N, dtype=dtype)


def rows(shape: tuple[int, ...], dtype: torch.dtype, k: int = K) -> Tensor:
    return torch.zeros(*shape, k, dtype=dtype)


EXTRA = {
    product.op: {"": (), "float threshold": (6.0,), "int group": (GROUP,), "str[] groups": ([],)}[product.schema]
    for product in PRODUCTS.values()
}
OPS: dict[str, tuple[Callable[..., Any], Make]] = {
    "quantize_s8": (plain.quantize_s8, lambda shape, dtype: (rows(shape, dtype),)),
    "dequantize_s8": (plain.dequantize_s8, lambda shape, dtype: (rows(shape, torch.int8), torch.zeros(*shape, 1), dtype)),
    "rotate": (plain.rotate, lambda shape, dtype: (rows(shape, dtype),)),
    "split_columns": (plain.split_columns, lambda shape, dtype: (rows(shape, dtype), 6.0)),
    "split_rows": (plain.split_rows, lambda shape, dtype: (rows(shape, dtype),)),
    "hit_columns": (plain.hit_columns, lambda shape, dtype: (rows(shape, dtype), 6.0)),
    "quantize_unsigned": (exported.quantize_unsigned, lambda shape, dtype: (rows(shape, dtype),)),
    "product_u8s8": (exported.product_u8s8, lambda shape, _: (rows(shape, torch.uint8), weight())),
    "product_fs8": (exported.product_fs8, lambda shape, _: (rows(shape, torch.float32), weight())),
    "product_columns": (
        exported.product_columns,
        lambda shape, _: (rows(shape, torch.float32), torch.ones(K, dtype=torch.bool), weight()),
    ),
    "codes_as_float": (exported.codes_as_float, lambda shape, _: (rows(shape, torch.int8),)),
    "softmax": (softmax.softmax, lambda shape, dtype: (rows(shape, dtype), -1, 1.0, torch.zeros(K, dtype=dtype), False, None)),
    **{
        name: (
            linear_reference(name),
            lambda shape, dtype, name=name: (  # type: ignore[misc]
                rows(shape, dtype), packed(name), torch.zeros(N), N, *EXTRA[name], None,
            ),
        )
        for name in LINEAR_SCHEMAS
    },
}  # fmt: skip


def same_everywhere(name: str, reference: Callable[..., Any], arguments: tuple[Any, ...], **fused: Any) -> None:
    """The op with the library, its reference and its shape function give one result, which has no elements."""
    op = getattr(torch.ops.lowbit, name).default
    results = [op(*arguments, **fused), reference(*arguments, **fused)]
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fakes, more = tree_map_only(Tensor, mode.from_tensor, (arguments, fused))
        results.append(op(*fakes, **more))
    for real, other, fake in zip(*map(tree_leaves, results), strict=True):
        assert real.shape == other.shape == fake.shape
        assert real.dtype == other.dtype == fake.dtype
        assert not real.any()
        assert not other.any()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("shape", LEADING, ids=str)
def test_no_rows(name: str, shape: tuple[int, ...]) -> None:
    reference, make = OPS[name]
    for dtype in FLOATS:
        same_everywhere(name, reference, make(shape, dtype))


@pytest.mark.parametrize("name", [name for name in LINEAR_SCHEMAS if "s8s8" in name])
@pytest.mark.parametrize("function", ["silu", "rms_norm", "layer_norm"])
def test_no_rows_behind_a_prologue(name: str, function: str) -> None:
    reference, make = OPS[name]
    for shape in LEADING:
        fused = PROLOGUE | {"prologue": function, "times": torch.ones(K), "plus": torch.ones(K), "eps": 1e-5}
        same_everywhere(name, reference, make(shape, torch.float32), **fused)


@pytest.mark.parametrize("sizes", [(0, 4, 3, 5), (2, 0, 3, 5), (2, 4, 0, 5), (2, 4, 3, 0), (0, 0, 0, 0)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_nothing(sizes: tuple[int, ...], causal: bool) -> None:
    """No batch, no head, no query, no key: a query without keys gets zeros."""
    b, h, queries, keys = sizes
    q, k = torch.randn(b, h, queries, 8), torch.randn(b, 2, keys, 8)
    same_everywhere("sdpa", softmax.sdpa, (q, k, torch.randn(b, 2, keys, 6), None, causal, 1.0))
    codes, scales = torch.ones(b, 2, keys, 8, dtype=torch.int8), torch.ones(b, 2, keys, 1)
    same_everywhere("sdpa_codes", softmax.sdpa_codes, (q, codes, scales, codes, scales, None, causal, 1.0))
    mask = torch.zeros(b, 1, queries, keys)
    same_everywhere("sdpa", softmax.sdpa, (q, k, torch.randn(b, 2, keys, 6), mask, causal, 1.0))


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0), (0, 0, 0)], ids=str)
def test_softmax_of_nothing(shape: tuple[int, ...], dim: int) -> None:
    for mask in (None, torch.zeros(shape[-1]), torch.ones(shape, dtype=torch.bool)):
        same_everywhere("softmax", softmax.softmax, (torch.zeros(shape), dim, 2.0, mask, False, None))
        same_everywhere("softmax", softmax.softmax, (torch.zeros(shape), dim, 2.0, mask, True, torch.bfloat16))


def test_a_weight_without_rows() -> None:
    w = torch.zeros(0, K)
    same_everywhere("quantize_s4", plain.quantize_s4, (w, GROUP))
    (q, scale), (q4, scale4) = plain.quantize_s8(w), plain.quantize_s4(w, GROUP)
    same_everywhere("pack_s8", pack_s8, (q, scale))
    same_everywhere("dequantize_s4", plain.dequantize_s4, (q4, scale4, GROUP, torch.float16))
    assert [len(part) for part in unpack_s8(pack_s8(q, scale), 0)] == [0, 0]
    assert [len(part) for part in unpack_s4(pack_s4(q4, scale4, GROUP), 0, K, GROUP)] == [0, 0]


def called_without_rows(*shapes: tuple[int, ...]) -> list[str]:
    """Call a model with ``shapes`` and each recipe; returns the recipes whose linears were both rewritten."""
    model = nn.Sequential(nn.RMSNorm(64), nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 64), nn.Softmax(-1)).eval()
    done = []
    for recipe in (*RECIPES.values(), Recipe("rows", treatment="rows", head="same")):
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="lowbit", options={"recipe": recipe, "plan": "always", "remainder": "eager"})
        with torch.no_grad():
            for shape in shapes:
                assert compiled(torch.randn(shape)).shape == shape, (recipe.name, shape)
        products = [site for site in lowbit.last_report().sites if site.kind == "linear"]
        done += [recipe.name] * all(site.decision != "declined" for site in products)
    return done


def test_a_model_called_without_rows() -> None:
    assert called_without_rows((0, 64), (3, 64), (2, 0, 64)) == [*RECIPES, "rows"]


def test_a_model_called_without_rows_or_library() -> None:
    program = "import sys; sys.path += sys.argv[1:]; import test_empty; print(*test_empty.called_without_rows((0, 64)))"
    done = forks.run(program, *map(str, Path(__file__).parents[:2]), environment={**os.environ, "LOWBIT_NATIVE": "0"})
    assert done.stdout.split() == [*RECIPES, "rows"], done.stderr[-2000:]
