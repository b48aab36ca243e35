"""Perplexity of a language model on a fixed text, in windows that do not overlap."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def perplexity(
    model_fn: Callable[[Tensor], Tensor], ids: Tensor, window: int = 512, progress: Callable[[int, int], None] | None = None
) -> float:
    """exp of the mean negative log likelihood of every token of a window but its first.

    `model_fn` maps ids [1, window] to logits [1, window, vocabulary]. Tokens after the last whole window are left out, so
    that every call has the same shape. `progress(done, windows)` is called after each window.
    """
    windows = ids.shape[1] // window
    if windows == 0:
        raise ValueError(f"perplexity: {ids.shape[1]} tokens are fewer than one window of {window}")
    total = 0.0
    with torch.no_grad():
        for i in range(windows):
            piece = ids[:, i * window : (i + 1) * window].contiguous()  # a sliced layout would recompile model_fn
            logits = model_fn(piece)[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, piece[0, 1:], reduction="sum"))
            if progress is not None:
                progress(i + 1, windows)
    return math.exp(total / (windows * (window - 1)))
