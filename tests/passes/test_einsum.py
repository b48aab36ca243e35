"""Only a plain contraction becomes a linear."""

import pytest

from lowbit_compiler.passes.einsum import _letters


@pytest.mark.parametrize(
    ("equation", "dims", "expected"),
    [
        ("bk,nk->bn", (2, 2), ("bk", "nk", "bn")),
        ("...k,nk->...n", (3, 2), ("ABk", "nk", "ABn")),
        ("bk,nk", (2, 2), ("bk", "nk", "bn")),
        ("bk,n...->b", (2, 2), None),
        ("bb,nb->bn", (2, 2), None),
        ("bk,nk,k->bn", (2, 2), None),
    ],
)
def test_letters(equation: str, dims: tuple[int, int], expected: object) -> None:
    assert _letters(equation, *dims) == expected
