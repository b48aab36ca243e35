"""Malformed arguments, on every way into an op: one error that says what is accepted, and no crash."""

import pytest
import torch

from helpers.children import outcomes
from helpers.malformed import KEY, KEYS, WAYS, WITH_VALUES, compare, linear, replaced
from helpers.plain import PANEL, packed_bytes
from helpers.samples import K, N, samples
from lowbit_compiler.runtime.products import weight_of

L = torch.ops.lowbit
OPS = sorted(samples())
PANELS = -(-N // PANEL)
LINEAR = [op for op in OPS if op.startswith("linear")]


def freed(t):
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


def one_byte_short(t):
    t = t.clone(memory_format=torch.contiguous_format)
    t.untyped_storage().resize_(t.untyped_storage().nbytes() - 1)
    return t


def of(dims):
    return lambda t: t.new_zeros([1] * dims)


# What no tensor of any op may be, and the words for it.
ANY = {
    "65 dimensions": (of(65), "of at most 64 dimensions, got 65"),
    "70 dimensions": (of(70), "of at most 64 dimensions, got 70"),
    "300 dimensions": (of(300), "of at most 64 dimensions, got 300"),
    "uncountable": (lambda t: t.new_zeros(1, 1).expand(2**47, 2), "of at most 2^47 elements, got (140737488355328, 2)"),
    "uncountable, and empty": (lambda t: t.new_zeros(1, 1).expand(0, 2**62), "of at most 2^47 elements, got (0, 4611686018427387904)"),
    "complex": (lambda t: t.to(torch.complex64), ", got torch.complex64"),
    "float64": (lambda t: t.to(torch.float64), ", got torch.float64"),
}
ANY_WITH_VALUES = {
    "sparse": (lambda t: t.to_sparse(), " to be a dense tensor, got torch.sparse_coo"),
    "freed": (freed, " bytes of memory, got 0"),
    "storage too short": (one_byte_short, " bytes of memory, got "),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", OPS)
def test_no_tensor_of_any_op(op, way):
    arguments, calls, words = samples()[op], {}, {}
    kinds = ANY | (ANY_WITH_VALUES if way in WITH_VALUES else {})
    for i, tensor in enumerate(arguments):
        if not isinstance(tensor, torch.Tensor):
            continue
        for kind, (change, expected) in kinds.items():
            wrong = replaced(arguments, i, change(tensor))
            calls[f"argument {i}: {kind}"], words[f"argument {i}: {kind}"] = lambda wrong=wrong: WAYS[way](op, wrong), expected
        if i and way in WITH_VALUES:
            elsewhere = replaced(arguments, i, tensor.to("meta"))
            calls[f"argument {i} on meta"], words[f"argument {i} on meta"] = lambda wrong=elsewhere: WAYS[way](op, wrong), "on cpu, where "
    compare(op, calls, words)


LINEAR_CASES = {
    "no columns": (linear(0, lambda x: x[:, :0]), "expected K from 1 to "),
    "a number": (linear(0, lambda x: x[0, 0]), "expected x with at least one dimension, got 0 dimensions"),
    "K of another block": (linear(0, lambda x: x[:, :50]), "bytes for K = 50, got"),
    "n of another panel": (linear(3, lambda n: n + 16), "expected 4 panels for n = 49, got 3"),
    "largest n": (linear(3, lambda n: 2**63 - 1), "expected 576460752303423488 panels for n = 9223372036854775807, got 3"),
    "negative n": (lambda a: (a[0], a[1][:0], None, -1, *a[4:]), "expected n of at least 0, got -1"),
    "least n": (lambda a: (a[0], a[1][:0], None, -(2**63), *a[4:]), "expected n of at least 0, got -9223372036854775808"),
    "flat w": (linear(1, lambda w: w.flatten()), "expected w packed as int8 [panels, bytes], got torch.int8 of 1 dimensions"),
    "uint8 w": (linear(1, lambda w: w.view(torch.uint8)), "expected w packed as int8 [panels, bytes], got torch.uint8 of 2 dimensions"),
    "w a byte short": (linear(1, lambda w: w[:, :-1]), "for K = 100, got"),
    "bias of another n": (linear(2, lambda _: torch.ones(N + 1)), "expected bias of shape (33,), got (34,)"),
    "bias a number": (linear(2, lambda _: torch.tensor(1.0)), "expected bias of shape (33,), got ()"),
    "int bias": (linear(2, lambda _: torch.ones(N).int()), "expected bias in float32, bfloat16 or float16, got torch.int32"),
    "int result": (lambda a: (*a[:-1], torch.int32), "expected dtype float32, bfloat16 or float16, got torch.int32"),
    "large result": (
        lambda a: (
            torch.ones(1, 1).expand(2**40, K),
            a[1].new_zeros(1, 1).expand(2**20 + len(a[1]) - PANELS, a[1].shape[1]),
            None,
            2**24,
            *a[4:],
        ),
        "expected a result of at most 2^47 elements, got 1099511627776 rows of 16777216",
    ),
}
LINEAR_WITH_VALUES = {
    # 33 is the first row of its panel, 100 is in the middle of a block of 64.
    "n too small": (lambda a: (*a[:2], None, *changed_n(a)), "expected w packed for n = 36, got one of more rows"),
    "K too small": (linear(0, lambda x: x[:, :99]), "expected w packed for K = 99, got one of more columns"),
}


def changed_n(a):
    return (36, *a[4:])


def wider(op, a):
    """The arguments with a weight of 40 rows in place of 33, for the case that asks for fewer."""
    w = torch.randn(40, K)
    weight = weight_of(op, {"group": 32, "groups": []})
    return replaced(a, 1, weight.pack(weight.quantize(w)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", LINEAR)
def test_linear(op, way):
    cases = LINEAR_CASES | (LINEAR_WITH_VALUES if way in WITH_VALUES else {})
    calls, words = {}, {}
    for name, (change, expected) in cases.items():
        if op.endswith("rotated") and name == "K too small":
            continue  # the rotation leaves nothing to see it by
        arguments = change(wider(op, samples()[op]) if name == "n too small" else samples()[op])
        calls[name], words[name] = lambda arguments=arguments: WAYS[way](op, arguments), expected
    compare(op, calls, words)


INFINITE = float("inf")
OTHERS = [
    ("linear_s8s8_columns", "NaN threshold", linear(4, lambda _: float("nan")), "expected threshold of at least 0, got nan"),
    ("linear_s8s8_columns", "negative threshold", linear(4, lambda _: -INFINITE), "expected threshold of at least 0, got -inf"),
    ("split_columns", "NaN threshold", linear(1, lambda _: float("nan")), "expected threshold of at least 0, got nan"),
    ("hit_columns", "negative threshold", linear(1, lambda _: -1.0), "expected threshold of at least 0, got -1"),
    *[
        (op, f"group {group}", linear(i, lambda _, group=group: group), f"expected group in (32, 64, 128), got {group}")
        for op, i in {"quantize_s4": 1, "dequantize_s4": 2, "pack_s4": 2, "linear_fs4": 4, "dequantize_groups": 2}.items()
        for group in (0, -64, 63, 256, 2**40, 2**63 - 1, -(2**63))
    ],
    *[
        (op, "no columns", linear(0, lambda x: x[:, :0]), "expected K of at least 1, got 0")
        for op in ("quantize_s8", "quantize_unsigned", "quantize_s4", "rotate", "split_rows")
    ],
    *[
        (op, "a number", linear(0, lambda x: x[0, 0]), "expected x with at least one dimension, got 0 dimensions")
        for op in ("quantize_s8", "quantize_unsigned", "rotate", "split_rows", "split_columns", "hit_columns")
    ],
    ("quantize_s4", "3 dimensions", linear(0, lambda w: w[None]), "expected w of shape [N, K], got 3 dimensions"),
    ("pack_s8", "flat codes", linear(0, lambda q: q[0]), "expected q in int8 of 2 dimensions, got torch.int8 of 1 dimensions"),
    ("pack_s8", "uint8 codes", linear(0, lambda q: q.view(torch.uint8)), "expected q in int8 of 2 dimensions, got torch.uint8"),
    ("pack_s8", "fewer scales", linear(1, lambda s: s[1:]), "expected scale in float32 of shape (33,) or (33, 1), got torch.float32 of (32, 1)"),
    ("pack_s4", "scales turned", linear(1, lambda s: s.t()), "expected scale in float32 of shape (33, 4), got torch.float32 of (4, 33)"),
    ("pack_s4", "flat scales", linear(1, lambda s: s.flatten()), "expected scale in float32 of shape (33, 4), got torch.float32 of (132,)"),
    ("dequantize_s8", "fewer scales", linear(1, lambda s: s[1:]), "expected scale in float32 of shape (33, 1), got torch.float32 of (32, 1)"),
    ("dequantize_s8", "int result", linear(2, lambda _: torch.int8), "expected dtype float32, bfloat16 or float16, got torch.int8"),
    ("dequantize_s4", "fewer groups", linear(1, lambda s: s[:, 1:]), "expected scale in float32 of shape (33, 4), got torch.float32 of (33, 3)"),
    ("dequantize_columns", "fewer scales", linear(1, lambda s: s[1:]), "expected scale in float32 of shape (33,), got torch.float32 of (32,)"),
    ("dequantize_groups", "scales turned", linear(1, lambda s: s.t()), "expected scale in float32 of shape (4, 33), got torch.float32 of (33, 4)"),
    ("product_u8s8", "another K", linear(1, lambda w: w[1:]), "expected w of shape (100, N), got (99, 33)"),
    ("product_fs8", "another K", linear(0, lambda x: x[:, 1:]), "expected w of shape (99, N), got (100, 33)"),
    ("product_columns", "another K", linear(1, lambda hit: hit[1:]), "expected hit of shape (100,), got [(99,)]"),
    ("softmax", "dim", linear(1, lambda _: 2), "expected dim from -2 to 1, got 2"),
    ("softmax", "least dim", linear(1, lambda _: -(2**63)), "expected dim from -2 to 1, got -9223372036854775808"),
    ("softmax", "mask of another K", linear(3, lambda m: m[:, 1:]), "expected mask that broadcasts to (5, 100), got (1, 99)"),
    ("softmax", "mask of more dimensions", linear(3, lambda m: m[None]), "expected mask that broadcasts to (5, 100), got (1, 1, 100)"),
    ("softmax", "no mask at all", linear(3, lambda m: m[:, :0]), "expected mask that broadcasts to (5, 100), got (1, 0)"),
    ("softmax", "int mask", linear(3, lambda m: m.int()), "expected mask in bool, float32, bfloat16 or float16, got torch.int32"),
    ("softmax", "int result", linear(5, lambda _: torch.int64), "expected dtype float32, bfloat16 or float16, got torch.int64"),
    ("sdpa", "3 dimensions", linear(0, lambda q: q[0]), "expected q of 4 dimensions, got 3"),
    ("sdpa", "v of 5", linear(2, lambda v: v[None]), "expected v of 4 dimensions, got 5"),
    ("sdpa", "k of another dtype", linear(1, lambda k: k.float()), "expected q, k, v in one of float32, bfloat16, float16, got torch.float32"),
    ("sdpa", "another E", linear(1, lambda k: k[..., 1:]), "expected k of shape (1, G, S, 25), got (1, 2, 5, 24)"),
    ("sdpa", "fewer values", linear(2, lambda v: v[:, :, 1:]), "expected v of shape (1, 2, 5, F), got (1, 2, 4, 25)"),
    ("sdpa", "heads", linear(0, lambda q: q[:, :3]), "expected query heads that are a multiple of key heads, got 3 and 2"),
    ("sdpa", "no key heads", lambda a: (a[0], a[1][:, :0], a[2][:, :0], *a[3:]), "expected query heads that are a multiple of key heads, got 4 and 0"),
    ("sdpa", "mask", linear(3, lambda m: m[..., 1:]), "expected mask that broadcasts to (1, 4, 5, 5), got (1, 1, 5, 4)"),
    ("sdpa", "int mask", linear(3, lambda m: m.int()), "expected mask in bool, float32, bfloat16 or float16, got torch.int32"),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", sorted({op for op, *_ in OTHERS}))
def test_others(op, way):
    cases = {name: (change(samples()[op]), words) for named, name, change, words in OTHERS if named == op}
    calls = {name: lambda arguments=arguments: WAYS[way](op, arguments) for name, (arguments, _) in cases.items()}
    compare(op, calls, {name: words for name, (_, words) in cases.items()})


CODES = [
    ("pack_s8", -128, "expected codes from -127 to 127, got -128"),
    ("pack_s4", 8, "expected codes from -8 to 7, got 8"),
    ("pack_u4", 16, "expected codes from 0 to 15, got 16"),
    ("pack_u3", 8, "expected codes from 0 to 7, got 8"),
    ("pack_s4", -9, "expected codes from -8 to 7, got -9"),
]


@pytest.mark.parametrize("way", WITH_VALUES)
@pytest.mark.parametrize(("op", "code", "words"), CODES)
def test_codes(op, code, words, way):
    q, *rest = samples()[op]
    q = q.clone()
    q[-1, -1] = code
    compare(op, {"codes": lambda: WAYS[way](op, (q, *rest))}, {"codes": words})


BEFORE = {
    "unknown": ({"prologue": "swish"}, "expected prologue one of silu, "),
    "long": ({"prologue": "a" * 10_000}, "expected prologue one of silu, "),
    "times": ({"times": torch.ones(K - 1)}, "expected times of shape (100,) or that of x, (5, 100), got (99,)"),
    "times of more rows": ({"times": torch.ones(6, K)}, "expected times of shape (100,) or that of x, (5, 100), got (6, 100)"),
    "times elsewhere": ({"times": torch.ones(K, device="meta")}, "expected times on cpu, where x is, got meta"),
    "times of 70": ({"times": torch.ones([1] * 70)}, "expected times of at most 64 dimensions, got 70"),
    "freed plus": ({"plus": freed(torch.ones(K))}, "expected plus with 400 bytes of memory, got 0"),
    "plus": ({"plus": torch.ones(5, K)}, "expected plus of shape (100,), got (5, 100)"),
    "int plus": ({"plus": torch.ones(K).int()}, "expected plus in float32, bfloat16 or float16, got torch.int32"),
    "eps": ({"prologue": "rms_norm", "eps": -1.0}, "expected eps of at least 0, got -1"),
    "NaN eps": ({"prologue": "rms_norm", "eps": float("nan")}, "expected eps of at least 0, got nan"),
}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("op", [op for op in LINEAR if op.startswith("linear_s8")])
def test_prologue(op, native):
    keys = KEYS(KEY.CPU if native else KEY.PrivateUse1)
    arguments = samples()[op]
    calls = {name: lambda fused=fused: getattr(L, op).default.redispatch(keys, *arguments, **fused) for name, (fused, _) in BEFORE.items()}
    compare(op, calls, {name: words for name, (_, words) in BEFORE.items()})


def test_more_memory_than_there_is():
    """Rows without end from one number: nothing overflows on the way to torch's own out-of-memory error."""
    x = torch.ones(1, 1)
    calls = {
        "quantize_s8": lambda: L.quantize_s8(x.expand(2**40, K)),
        "rotate": lambda: L.rotate(x.expand(2**40, K)),
        "long row": lambda: L.quantize_s8(x.expand(1, 2**46)),
        "linear_fs8": lambda: L.linear_fs8(x.expand(2**40, K), *samples()["linear_fs8"][1:]),
        "softmax": lambda: L.softmax(x.expand(2**40, 9), -1, 1.0, None, False, None),
        "columns": lambda: L.softmax(x.expand(9, 2**40), 0, 1.0, None, False, None),
        "pack_s8": lambda: L.pack_s8(x.char().expand(2**40, 64), torch.ones(1).expand(2**40)),
    }
    got = outcomes(calls)
    assert all("memory" in got.get(name, "") for name in calls), got


def test_nothing_to_do():
    packed = torch.zeros(0, packed_bytes(K), dtype=torch.int8)
    assert L.linear_s8s8(torch.ones(1, 1).expand(2**40, K), packed, None, 0, None).shape == (2**40, 0)
    assert L.linear_s8s8(torch.ones(0, K), *samples()["linear_s8s8"][1:]).shape == (0, N)


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize(
    "op",
    [
        "linear_s8s8",
        "linear_fs4",
        "linear_fu4",
        "linear_s8u4_nested",
        "quantize_u4",
        "pack_u4",
        "quantize_s8",
        "quantize_s4",
        "rotate",
        "softmax",
        "sdpa",
        "pack_s8",
    ],
)
def test_memory_that_starts_anywhere(op, offset):
    """Tensors over lent memory whose elements are not where a compiler expects them: the same values."""

    def moved(t):
        if not isinstance(t, torch.Tensor):
            return t
        t = t.contiguous()
        memory = bytearray(t.numel() * t.element_size() + offset)
        at = torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=offset).view(t.shape)
        return at.copy_(t)

    arguments = samples(torch.float32)[op]
    expected, got = (getattr(L, op)(*given) for given in (arguments, [moved(a) for a in arguments]))
    for want, have in zip(*((r if isinstance(r, tuple) else (r,)) for r in (expected, got)), strict=True):
        assert torch.equal(want, have)


@pytest.mark.parametrize("way", WITH_VALUES)
@pytest.mark.parametrize("op", LINEAR)
def test_a_weight_that_starts_anywhere(op, way):
    """Of one panel, which is contiguous: 16 rows of a larger buffer, from an odd byte on."""
    x, w, _, _, *rest = samples()[op]
    one = torch.cat([w[:1], w[PANELS:]])  # and what is behind the panels
    moved = w.new_empty(one.numel() + 1)[1:].view(one.shape).copy_(one)
    want, got = (WAYS[way](op, (x, packed, None, 16, *rest)) for packed in (one, moved))
    assert torch.equal(want, got)
