"""Properties of the treatments of outliers, and of packing."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import bounds, operands, plain

sizes = st.tuples(st.integers(1, 9), st.integers(1, 200), st.integers(0, 10_000))
quick = settings(max_examples=40, deadline=None)


@quick
@given(sizes)
def test_rotation_is_its_own_inverse_and_keeps_products(size):
    m, k, seed = size
    x, w = operands.rows(m, k, torch.float32, seed), operands.weight(5, k, seed)
    rx, rw = plain.rotate(x), plain.rotate(w)
    assert rx.shape[1] % 64 == 0
    padded = torch.nn.functional.pad(x, (0, rx.shape[1] - k)).double()
    error = bounds.rotation(padded)
    back = plain.rotate(rx).double()
    # the first rotation's error is rotated too: at most 64/8 of its largest element in a block
    assert ((back - padded).abs() <= bounds.rotation(rx.double()) + 8 * error).all()
    exact = x.double() @ w.double().t()
    wide = torch.nn.functional.pad(w, (0, rx.shape[1] - k)).double()
    bound = error @ rw.double().abs().t() + rx.double().abs() @ bounds.rotation(wide).t() + error @ bounds.rotation(wide).t()
    assert ((rx.double() @ rw.double().t() - exact).abs() <= bound).all()


def test_columns_threshold_is_not_rounded_to_the_dtype():
    x = torch.tensor([[6.03125, 0.5]], dtype=torch.bfloat16)  # bfloat16(6.04) is 6.03125 too
    assert plain.split_columns(x, 6.04)[1].count_nonzero() == 0
    assert plain.split_columns(x, 6.03)[1].count_nonzero() == 1


@quick
@given(sizes, st.sampled_from([0.5, 3.0, 6.0]))
def test_columns_split(size, threshold):
    m, k, seed = size
    x = operands.rows(m, k, torch.float32, seed)
    x[0, 0] = float("nan") if seed % 3 == 0 else x[0, 0]
    kept, exact = plain.split_columns(x, threshold)
    assert torch.equal((kept + exact).nan_to_num(7), x.nan_to_num(7))
    regular = torch.isfinite(x).all(1)
    hit = (x[regular].abs() >= threshold).any(0)
    assert not kept[:, hit].any()
    assert not exact[:, ~hit].nan_to_num(7).any()
    assert (kept[regular].abs() < threshold).all()


@quick
@given(sizes)
def test_rows_split(size):
    m, k, seed = size
    x = operands.rows(m, k, torch.float32, seed)
    kept, exact = plain.split_rows(x)
    assert torch.equal(kept + exact, x)
    assert not ((kept != 0) & (exact != 0)).any()
    assert ((exact != 0).sum(1) <= plain.ROW_CAPACITY).all()
    for row, largest in zip(x, x.abs().amax(1), strict=True):
        cuts = [largest * 2.0**-j for j in range(1, plain.ROW_CUTS + 1)]
        fitting = [cut for cut in cuts if (row.abs() > cut).sum() <= plain.ROW_CAPACITY]
        kept_row, exact_row = plain.split_rows(row)
        assert torch.equal(exact_row, torch.where(row.abs() > fitting[-1], row, 0) if fitting else torch.zeros_like(row))
        assert kept_row.abs().max() <= (fitting[-1] if fitting else largest)


def test_rows_split_leaves_special_rows():
    for value in ("nan", "inf"):
        x = operands.rows(1, 50, torch.float32)
        x[0, 3] = float(value)
        kept, exact = plain.split_rows(x)
        assert not exact.any()
        assert torch.equal(kept.nan_to_num(7), x.nan_to_num(7))


@quick
@given(st.integers(1, 40), st.integers(1, 300), st.sampled_from([32, 64, 128]))
def test_packing_round_trip(n, k, group):
    w = operands.weight(n, k)
    q, scale = plain.quantize_s8(w)
    packed = plain.pack_s8(q, scale)
    assert packed.shape == (-(-n // plain.PANEL), plain.packed_bytes(k))
    back, back_scale = plain.unpack_s8(packed, n)
    assert torch.equal(back[:, :k], q)
    assert torch.equal(back_scale, scale)
    assert not back[:, k:].any()
    q, scale = plain.quantize_s4(w, group)
    packed = plain.pack_s4(q, scale, group)
    assert packed.shape == (-(-n // plain.PANEL), plain.packed_bytes(k, group))
    back, back_scale = plain.unpack_s4(packed, n, k, group)
    assert torch.equal(back[:, :k], q)
    assert torch.equal(back_scale[:, : scale.shape[1]], scale)
    assert not back[:, k:].any()
