"""The int8 cache of transformers' models: what it keeps, what it computes with, and what of transformers it stands on."""

import pytest
import torch
from torch import Tensor

import lowbit_compiler
from helpers.compiled import NATIVE

transformers = pytest.importorskip("transformers")
PLACES, PROMPT, TOKENS = 40, 12, 3
OPTIONS = {"plan": "always", "remainder": "eager", "recipe": "int8-weight-only"}


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=96, intermediate_size=128, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, vocab_size=70
    )
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def ids(batch: int = 1, length: int = PROMPT + TOKENS) -> Tensor:
    return torch.randint(0, 70, (batch, length), generator=torch.Generator().manual_seed(batch))


def logits(model, x: Tensor, cache) -> Tensor:
    return model(x, past_key_values=cache).logits


def difference(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def new(model):
    return lowbit_compiler.Int8Cache(model.config, PLACES)


def test_what_of_transformers_it_stands_on():
    """Fails where transformers moves something: then lowbit_compiler/int8_cache.py must follow."""
    from transformers.cache_utils import Cache, StaticLayer, get_layer_types_and_kwargs

    kinds, arguments = get_layer_types_and_kwargs(transformers.LlamaConfig(num_hidden_layers=3))
    assert (kinds, len(arguments)) == (["full_attention"] * 3, 3)
    layer = StaticLayer(7)
    assert not layer.is_initialized
    layer.lazy_initialization(torch.zeros(2, 3, 1, 4, dtype=torch.int8), torch.zeros(2, 3, 1, 5, dtype=torch.int8))
    assert layer.is_initialized
    assert (layer.keys.shape, layer.values.shape, layer.keys.dtype) == ((2, 3, 7, 4), (2, 3, 7, 5), torch.int8)
    assert (layer.batch_size, layer.num_heads, layer.max_cache_len, layer.device) == (2, 3, 7, torch.device("cpu"))
    assert isinstance(layer.cumulative_length, Tensor)
    assert layer.get_mask_sizes(1) == (7, 0)
    assert len(Cache(layers=[layer])) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_it_keeps(llama, dtype):
    """Codes and scales are those of quantize_s8, in the order of the tokens; empty places are zeros."""
    layer, (k, v) = new(llama).layers[0], torch.randn(2, 2, 2, 5, 16).to(dtype)
    k[0, 0, 1] = 0
    layer.update(k[:, :, :3], v[:, :, :3])
    keys, values = layer.update(k[:, :, 3:], v[:, :, 3:])
    for codes, scales, returned, states in ((layer.keys, layer.key_scales, keys, k), (layer.values, layer.value_scales, values, v)):
        want = torch.ops.lowbit.quantize_s8(states)
        assert torch.equal(codes[:, :, :5], want[0])
        assert torch.equal(scales[:, :, :5], want[1])
        assert not codes[:, :, 5:].any()
        assert not scales[:, :, 5:].any()
        assert returned.dtype is dtype
        assert torch.equal(returned, (codes * scales).to(dtype))
    assert int(layer.get_seq_length()) == 5
    assert layer.key_scales[0, 0, 1] == 0


@pytest.mark.parametrize("batch", [1, 3])
def test_decoding_is_a_longer_prefill(llama, batch):
    """Keys and values are those of a prefill, but where float32 puts one on the other side of a tie: less than quantization itself."""
    x, cache = ids(batch), new(llama)
    whole = logits(llama, x, new(llama))
    parts = [logits(llama, x[:, :PROMPT], cache), *(logits(llama, x[:, i : i + 1], cache) for i in range(PROMPT, PROMPT + TOKENS))]
    quantized = difference(whole, logits(llama, x, transformers.StaticCache(llama.config, PLACES)))
    assert 0 < quantized < 2 / 127  # half a step of 1/127 of the largest an element, in both operands
    assert difference(torch.cat(parts, 1), whole) < quantized / 4


def test_reset_and_reorder(llama):
    x, cache = ids(2), new(llama)
    first = logits(llama, x, cache)
    cache.reset()
    assert int(cache.get_seq_length()) == 0
    assert not any(each.any() for layer in cache.layers for each in (layer.keys, layer.values, layer.key_scales, layer.value_scales))
    assert torch.equal(logits(llama, x, cache), first)
    before = [[each.clone() for each in (layer.keys, layer.values, layer.key_scales, layer.value_scales)] for layer in cache.layers]
    cache.reorder_cache(torch.tensor([1, 0]))
    for layer, parts in zip(cache.layers, before, strict=True):
        for each, part in zip((layer.keys, layer.values, layer.key_scales, layer.value_scales), parts, strict=True):
            assert torch.equal(each, part.flip(0))


def test_generates(llama):
    """``generate`` takes it like any other cache, and fills it."""
    x, cache = ids(1, PROMPT), new(llama)
    out = llama.generate(x, past_key_values=cache, max_new_tokens=5, do_sample=False)
    assert out.shape == (1, PROMPT + 5)
    assert torch.equal(out[:, :PROMPT], x)
    assert int(cache.get_seq_length()) == PROMPT + 4


def test_tokens_can_be_taken_back(llama):
    """As in speculative decoding: those that are taken back are written over."""
    x, cache = ids(), new(llama)
    want = logits(llama, x, new(llama))
    logits(llama, x[:, :PROMPT], cache)
    logits(llama, x[:, :2], cache)
    cache.crop(-2)
    assert int(cache.get_seq_length()) == PROMPT
    assert difference(logits(llama, x[:, PROMPT:], cache), want[:, PROMPT:]) < 1 / 127


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_does_not_matter(llama, default):
    want, before = logits(llama, ids(), new(llama)), torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        layer, states = new(llama).layers[0], torch.randn(1, 2, 3, 16, dtype=torch.float32)
        layer.update(states, states)
    finally:
        torch.set_default_dtype(before)
    assert layer.key_scales.dtype is torch.float32
    assert torch.equal(logits(llama, ids(), new(llama)), want)


@pytest.fixture
def spelled(llama, request):
    """The model with its attention written in one way."""
    llama.set_attn_implementation(request.param)
    yield llama
    llama.set_attn_implementation("sdpa")


@pytest.mark.skipif(not NATIVE, reason="no native library")
@pytest.mark.parametrize("spelled", ["sdpa", "eager"], indirect=True)
@pytest.mark.parametrize("batch", [1, 2])
def test_compiled(spelled, batch):
    """A step reads the codes, in one op for each layer, and computes what it does in eager mode."""
    llama = spelled
    x, plain, cache = ids(batch), new(llama), new(llama)
    for each in (plain, cache):
        logits(llama, x[:, :PROMPT], each)
    torch._dynamo.reset()
    with torch.no_grad():
        step = torch.compile(lambda x: logits(llama, x, cache), backend="lowbit", fullgraph=True, dynamic=False, options=OPTIONS)
        for i in range(PROMPT, PROMPT + TOKENS):
            assert difference(step(x[:, i : i + 1]), logits(llama, x[:, i : i + 1], plain)) < 3 / 127  # weights in int8 beside the cache
    assert [site.lowered_to for site in lowbit_compiler.last_report().sites if site.kind == "attention"] == ["lowbit::sdpa_codes"] * 2
    for one, other in zip(plain.layers, cache.layers, strict=True):
        assert torch.equal(one.keys[:, :, :PROMPT], other.keys[:, :, :PROMPT])
        assert other.key_scales[:, :, PROMPT : PROMPT + TOKENS].all()
        assert not other.key_scales[:, :, PROMPT + TOKENS :].any()


def test_under_inductor(llama):
    """What is kept and what is returned are those of eager mode, bit for bit."""
    plain, other = (new(llama).layers[0] for _ in range(2))
    states = torch.randn(2, 1, 2, PROMPT + TOKENS, 16)
    for layer in (plain, other):
        layer.update(*states[..., :PROMPT, :])
    step = torch.compile(other.update, fullgraph=True, dynamic=False)
    for i in range(PROMPT, PROMPT + TOKENS):
        key, value = states[..., i : i + 1, :]
        for got, want in zip(step(key, value), plain.update(key, value), strict=True):
            assert torch.equal(got, want)
    for name in ("keys", "values", "key_scales", "value_scales", "cumulative_length"):
        assert torch.equal(getattr(other, name), getattr(plain, name))


@pytest.mark.model
def test_a_model_under_inductor(llama):
    x, plain, cache = ids(), new(llama), new(llama)
    for each in (plain, cache):
        logits(llama, x[:, :PROMPT], each)
    torch._dynamo.reset()
    with torch.no_grad():
        step = torch.compile(lambda x: logits(llama, x, cache), fullgraph=True, dynamic=False)
        got, want = step(x[:, PROMPT : PROMPT + 1]), logits(llama, x[:, PROMPT : PROMPT + 1], plain)
    assert difference(got, want) < 1 / 127  # a code on the other side of a tie


def update(model, *keys: Tensor, values: Tensor | None = None) -> None:
    layer = new(model).layers[0]
    for each in keys:
        layer.update(each, each if values is None else values)


K = torch.zeros(1, 2, 3, 16)
WRONG = {
    "no places": (lambda m: lowbit_compiler.Int8Cache(m.config, 0), "expected max_cache_len of at least 1, got 0"),
    "places of another type": (lambda m: lowbit_compiler.Int8Cache(m.config, 2.5), "expected max_cache_len of at least 1, got 2.5"),
    "sliding windows": (
        lambda _: lowbit_compiler.Int8Cache(transformers.MistralConfig(sliding_window=8), 16),
        "expected layers of full_attention, got sliding_attention",
    ),
    "float64": (lambda m: update(m, K.double()), "expected keys in float32, bfloat16 or float16, all in one of them; got torch.float64"),
    "another dtype": (
        lambda m: update(m, K, K.half()),
        "expected keys in float32, bfloat16 or float16, all in one of them; got torch.float16",
    ),
    "another batch": (lambda m: update(m, K, torch.zeros(2, 2, 3, 16)), "expected keys of shape (1, 2, 3, 16), got (2, 2, 3, 16)"),
    "fewer values": (lambda m: update(m, K, values=K[:, :, 1:]), "expected values of shape (1, 2, 3, 16), got (1, 2, 2, 16)"),
    "too many in two": (
        lambda m: update(m, *(torch.zeros(1, 2, n, 16) for n in (30, 12))),
        "expected at most 10 tokens behind the 30 that are there, got 12",
    ),
    "too many": (lambda m: update(m, torch.zeros(1, 2, PLACES + 1, 16)), "expected at most 40 tokens, got 41"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(llama, case):
    make, words = WRONG[case]
    with pytest.raises(ValueError, match="Int8Cache: ") as error:
        make(llama)
    assert words in str(error.value)
