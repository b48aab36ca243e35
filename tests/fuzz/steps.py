"""The steps that random models are made of: how models spell products, softmaxes and attention, and what may go wrong around them."""

from collections.abc import Callable

from fuzz.writer import Writer


def _linear(w: Writer) -> None:
    w.new(f"{w.linear()}({w.recent()})")


def _product(w: Writer) -> None:
    a, m = w.recent(), w.weight(w.width, w.width)
    c = w.width
    w.new(w.any(f"{a} @ {m}", f"torch.matmul({a}, {m}.t())", f"F.linear({a}, {m}.T)", f"{a}.matmul({m} * 0.5)",
                f"{a}.reshape(-1, {c}).mm({m}).view({a}.shape)", f"({a}.mT.contiguous().mT @ {m})"))  # fmt: skip


def _addmm(w: Writer) -> None:
    a, m, c = w.recent(), w.weight(w.width, w.width), w.width
    added = w.any(w.weight(c), f"{a}.reshape(-1, {c})")
    w.new(f"torch.addmm({added}, {a}.reshape(-1, {c}), {m}, beta={w.any('1', '0.5', '0')}, alpha={w.any('1', '2')}).view({a}.shape)")


def _einsum(w: Writer) -> None:
    a, m = w.recent(), w.weight(w.width, w.width)
    equation = w.any("btc,cd->btd", "btc,dc->btd", "...c,dc->...d")
    w.new(w.any(f"torch.einsum('{equation}', {a}, {m})", f"torch.einsum('btc,cd->dtb', {a}, {m}).permute(2, 1, 0)"))


def _from_the_left(w: Writer) -> None:
    w.new(
        w.any(
            f"{w.weight(w.tokens, w.tokens)} @ {w.recent()}", f"torch.einsum('btc,st->bsc', {w.recent()}, {w.weight(w.tokens, w.tokens)})"
        )
    )


def _mlp(w: Writer) -> None:
    wide = 2 * w.width
    h = w.let(f"{w.linear(wide)}({w.recent()})")
    if w.often(0.3):
        w.do(w.any(f"F.relu({h}, inplace=True)", f"F.leaky_relu_({h}, 0.1)", f"{h}.tanh_()", f"torch.clamp({h}, -2, 2, out={h})"))
    act = w.any("F.gelu({})", "F.gelu({}, approximate='tanh')", "F.relu({})", "F.silu({})", "F.dropout(F.gelu({}), 0.1, False)")
    w.new(f"{w.linear(w.width, wide)}({act.format(h)})")


def _gated(w: Writer) -> None:
    wide, a = 2 * w.width, w.recent()
    gate, up = w.let(f"{w.linear(wide)}({a})"), w.let(f"{w.linear(wide)}({a})")
    if w.often(0.4):
        w.do(w.any(f"{up}.mul_(1.5)", f"{gate}.sub_(0.1)", f"{up}[..., :3] = 0.5"))
    w.new(f"{w.linear(w.width, wide)}(F.silu({gate}) * {up})")


def _siblings(w: Writer) -> None:
    a = w.recent()
    if w.often(0.7):
        a = w.let(
            w.any(
                f"{a} @ {w.weight(w.width, w.width)}",
                f"{a}.softmax(-1)",
                f"{w.linear()}({a})",
                f"{a}.reshape(-1, {w.width}).view({a}.shape)",
            )
        )
    u = w.let(f"{w.linear()}({a})")
    if w.often(0.6):
        w.do(w.any(f"{a}.mul_(1.25)", f"{a}.transpose(0, 1)[:1].add_(0.5)", f"torch._foreach_add_([{a}], 0.5)", f"{a} += {w.any(*w.pool)}"))
    v = w.let(f"{w.linear()}({a})")
    if w.often(0.3):
        w.do(f"{u}.add_({v})")
    w.new(f"{u} * {v} + {w.linear()}({a})")


def _memory(w: Writer) -> None:
    a, rows = w.recent(), w.tokens
    q, k = w.let(f"{w.linear()}({a})"), w.let(f"{w.linear()}({a})")
    read = w.any("torch.ops.fuzz.flat({})", f"{{}}.as_strided(({rows}, {w.width}), ({w.width}, 1))", "{}.unfold(-1, 4, 2)",
                 "{}.view(-1, 2).flip(0)", f"{{}}[0].as_strided(({w.width // 2},), (2,), 0)", "{}.contiguous().flatten(1)")  # fmt: skip
    one, two = w.let(read.format(q)), w.let(read.format(k))
    w.new(f"{a} + {one}.mean() - {two}.square().mean()")


def _heads(w: Writer, a: str, heads: int) -> str:
    size = w.width // w.heads
    return w.let(f"{w.linear(heads * size)}({a}).view({a}.shape[0], -1, {heads}, {size}).transpose(1, 2)")


def _operands(w: Writer, a: str, b: str) -> tuple[str, str, str]:
    few = w.random.choice([n for n in (1, 2, 4) if w.heads % n == 0 and n <= w.heads])
    q, k, v = _heads(w, a, w.heads), _heads(w, a, few), _heads(w, b, few)
    if few != w.heads:
        times, shape = w.heads // few, f"{a}.shape[0], {w.heads}, -1, {w.width // w.heads}"
        repeat = w.any(f"repeat_interleave({times}, 1)", f"unsqueeze(2).expand(-1, -1, {times}, -1, -1).reshape({shape})")
        k, v = w.let(f"{k}.{repeat}"), w.let(f"{v}.{repeat}")
    return q, k, v


def _merged_heads(w: Writer, out: str, a: str) -> None:
    w.new(f"{w.linear()}({out}.transpose(1, 2).{w.any('reshape', 'contiguous().view')}({a}.shape))")


def _attention(w: Writer) -> None:
    a = w.recent()
    q, k, v = _operands(w, a, w.recent())
    out = w.let(f"F.scaled_dot_product_attention({q}, {k}, {v}{w.any('', ', is_causal=True', ', attn_mask=mask', ', scale=0.2')})")
    if w.often(0.2):
        w.do(f"{out}.add_({q})")
    _merged_heads(w, out, a)


def _written_attention(w: Writer) -> None:
    a = w.recent()
    q, k, v = _operands(w, a, w.recent())
    root = (w.width // w.heads) ** 0.5
    s = w.let(
        w.any(f"{q} @ {k}.transpose(-1, -2)", f"torch.matmul({q}, {k}.mT) / {root:.4f}", f"({q} * {1 / root:.4f}) @ {k}.transpose(2, 3)")
    )
    for share, line in ((0.2, f"{q}.add_(1)"), (0.2, f"{s}.mul_(0.5)"), (0.15, f"{k}.zero_()")):
        if w.often(share):
            w.do(line)
    w.do(w.any("pass", f"{s} = {s}.masked_fill(~mask, float('-inf'))", f"{s}.masked_fill_(~mask, -1e4)", f"{s} = torch.where(mask, {s}, -1e4)",
               f"{s} = {s} + torch.zeros_like({s}).masked_fill(~mask, -1e4)", f"{s} += (~mask).to({s}.dtype) * -1e4"))  # fmt: skip
    if w.often(0.2):
        w.do(f"{v}.mul_(2)")
    p = w.let(w.any(f"{s}.softmax(-1)", f"F.softmax({s}, dim=-1, dtype=torch.float32).to({v}.dtype)", f"F.softmax({s}.float(), -1).type_as({v})",
                    f"F.dropout(F.softmax({s}, -1), 0.1, False)"))  # fmt: skip
    if w.often(0.15):
        w.do(f"{p}.mul_(0.9)")
    out = w.let(f"{p} @ {v}")
    if w.often(0.2):
        w.new(f"{a} + {p}.mean()")
    _merged_heads(w, out, a)


def _softmax(w: Writer) -> None:
    a = w.recent()
    scores = w.any(a, f"{a} * 0.5", f"{a} * -2 + {w.any(*w.pool)}", f"{a}.transpose(1, 2)")
    w.new(f"F.{w.any('softmax', 'log_softmax')}({scores}, dim={w.any('-1', '1', '0', '2')}).reshape({a}.shape)")


def _written_softmax(w: Writer) -> None:
    a = w.recent()
    largest = w.any("amax(-1, keepdim=True)", "max(-1, keepdim=True)[0]", "max(-1, keepdim=True).values.detach()")
    e = w.let(f"({a} - {a}.{largest}).exp()")
    if w.often(0.2):
        w.do(f"{e}[..., 0] = 0.5")
    w.new(w.any(f"{e} / {e}.sum(-1, keepdim=True)", f"{a} - {a}.logsumexp(-1, keepdim=True)", f"{a}.log_softmax(-1).exp()"))


def _norm(w: Writer) -> None:
    a, g = w.recent(), w.weight(w.width)
    w.new(w.any(f"F.layer_norm({a}, ({w.width},), {g}, {g})", f"F.rms_norm({a}, ({w.width},), {g}, 1e-5)",
                f"{g} * ({a} * torch.rsqrt({a}.pow(2).mean(-1, keepdim=True) + 1e-5))"))  # fmt: skip


def _residual(w: Writer) -> None:
    a, g = w.recent(), w.weight(w.width)
    w.new(f"{a} + {w.linear()}(F.layer_norm({a}, ({w.width},), {g}))")


def _activation(w: Writer) -> None:
    a = w.recent()
    w.new(
        w.any(
            f"F.gelu({a})",
            f"F.silu({a})",
            f"F.relu({a})",
            f"torch.sigmoid({a}) * {w.any(*w.pool)}",
            f"{a}.tanh()",
            f"{a} * 0.0",
            f"F.dropout({a}, 0.5, False)",
        )
    )


def _write(w: Writer) -> None:
    a, b = w.recent(), w.any(*w.pool)
    w.do(w.any(f"{a}.add_({b} * 0.5)", f"{a}.mul_(0.7)", f"{a}[..., ::2] *= -1", f"{a}[:, 0] = 0.25", f"{a}.copy_({b}.roll(1, -1))", f"{a} += 1",
               f"{a}.view(-1)[:3] = 2.0", f"torch.add({a}, 1, out={a})", f"{a}.transpose(0, 1).mul_(1.1)", f"{a}.data.mul_(0.9)",
               f"{a}.index_fill_(2, torch.tensor([0, 1]), 0.5)"))  # fmt: skip


def _write_under_view(w: Writer) -> None:
    a = w.recent()
    view = w.any(
        "transpose(1, 2)", f"narrow(-1, 0, {w.width // 2})", "flatten(1)", "detach()", "unsqueeze(0)", "chunk(2, -1)[0]", "unbind(0)[0]"
    )
    v, linear = w.let(f"{a}.{view}"), w.linear()
    before = w.let(f"{linear}({a})")
    w.do(f"{v}.mul_(-1.5)")
    w.new(f"{before} + {linear if w.often(0.5) else w.linear()}({a})")


def _dropped(w: Writer) -> None:
    a = w.recent()
    w.do(w.any(f"{w.linear()}({a})", f"{w.linear(16)}({a}[:, 0]).tanh()", f"{a}.softmax(-1)", f"{a} @ {a}.mT",
               f"F.scaled_dot_product_attention({a}, {a}, {a})", f"F.log_softmax({w.linear()}({a}), -1)", f"{a} @ {w.weight(w.width, 32)}"))  # fmt: skip


def _convolution(w: Writer) -> None:
    a, c = w.recent(), w.width
    kernel = w.weight(c, 1, 3)
    w.new(w.any(f"F.conv1d({a}.mT, {kernel}, padding=1, groups={c}).mT", f"F.conv1d({a}.mT, {kernel}, None, 1, 'same', 1, {c}).mT",
                f"F.conv_transpose1d({a}.mT, {kernel}, stride=1, padding=1, groups={c}).mT"))  # fmt: skip


def _tied(w: Writer) -> None:
    linear, a = w.linear(), w.recent()
    h = w.let(f"{linear}({a})")
    w.new(f"F.linear({h}, {linear}.weight.t()) + {linear}({w.any(*w.pool)})")


def _parts(w: Writer) -> None:
    a, b, half = w.recent(), w.any(*w.pool), w.width // 2
    w.new(w.any(f"{w.linear(None, half)}({a}[..., :{half}])", f"{w.linear(None, 2 * w.width)}(torch.cat([{a}, {b}], -1))",
                f"torch.cat({w.linear()}({a}).chunk(2, -1)[::-1], -1)"))  # fmt: skip


def _packed_projection(w: Writer) -> None:
    a = w.recent()
    q, k, v = (w.let(f"{part}[{i}]") for i, part in enumerate([w.let(f"{w.linear(3 * w.width)}({a}).chunk(3, -1)")] * 3))
    w.new(f"F.scaled_dot_product_attention({q}, {k}, {v})")


def _cast(w: Writer) -> None:
    a = w.recent()
    w.new(w.any(f"F.linear({a}.bfloat16(), {w.weight(w.width, w.width)}.bfloat16()).to({a}.dtype)", f"{a}.float().to({a}.dtype)"))


def _computed_weight(w: Writer) -> None:
    m = w.weight(w.width, w.width)
    w.new(f"F.linear({w.recent()}, F.normalize({m}, dim=1), {m}[0])")


def _activations(w: Writer) -> None:
    a, b = w.recent(), w.any(*w.pool)
    w.new(f"torch.bmm({a}, torch.bmm({b}.transpose(1, 2), {b})) * 0.05")


STEPS: tuple[tuple[int, Callable[[Writer], None]], ...] = (
    (4, _linear), (2, _product), (2, _addmm), (2, _einsum), (1, _from_the_left), (2, _mlp), (2, _gated), (6, _siblings), (4, _memory),
    (2, _attention), (3, _written_attention), (1, _softmax), (1, _written_softmax), (1, _norm), (1, _residual), (1, _activation),
    (3, _write), (2, _write_under_view), (2, _dropped), (1, _convolution), (1, _tied), (1, _parts), (1, _packed_projection), (1, _cast),
    (1, _computed_weight), (1, _activations),
)  # fmt: skip
