"""Models of torch's own modules, with inputs: attention, encoders, recurrent cells, autocast, parametrizations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from helpers.case import Case


class Einsum(nn.Module):
    """Self attention written with einsum only, as in some JAX ports."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(3, heads, width // heads, width) / width**0.5)
        self.out = nn.Parameter(torch.randn(heads, width // heads, width) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btd,hed->bhte", x, w) for w in self.qkv)
        weights = torch.einsum("bhte,bhse->bhts", q, k).mul(q.shape[-1] ** -0.5).softmax(-1)
        mixed = torch.einsum("bhts,bhse->bhte", weights, v)
        return torch.einsum("bhte,hed->btd", mixed, self.out)


class Attention(nn.Module):
    """nn.MultiheadAttention called in the ways that its arguments allow."""

    def __init__(self, need_weights: bool, batch_first: bool, mask: str) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(64, 4, batch_first=batch_first)
        self.need_weights, self.mask = need_weights, mask

    def forward(self, x: Tensor) -> Any:
        tokens = x.shape[1] if self.inner.batch_first else x.shape[0]
        batch = x.shape[0] if self.inner.batch_first else x.shape[1]
        causal = torch.ones(tokens, tokens, dtype=torch.bool).triu(1) if "causal" in self.mask else None
        padded = torch.zeros(batch, tokens, dtype=torch.bool) if "padding" in self.mask else None
        if padded is not None:
            padded[:, -2:] = True
        out, weights = self.inner(x, x, x, attn_mask=causal, key_padding_mask=padded, need_weights=self.need_weights)
        return out if weights is None else (out, weights)


def attention(need_weights: bool, batch_first: bool, mask: str) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    return lambda: (Attention(need_weights, batch_first, mask).eval(), {"x": torch.randn(3, 7, 64)})


def transformer() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Transformer(64, 4, 2, 2, 100, batch_first=True).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    return model, {"src": torch.randn(2, 9, 64), "tgt": torch.randn(2, 5, 64), "tgt_mask": mask, "tgt_is_causal": True}


def encoder(norm_first: bool, masked: bool) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    def make() -> tuple[nn.Module, dict[str, Any]]:
        layer = nn.TransformerEncoderLayer(64, 4, 100, batch_first=True, norm_first=norm_first, activation="gelu")
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        inputs = {"src": torch.randn(2, 9, 64)}
        if masked:
            inputs["src_key_padding_mask"] = torch.arange(9) >= torch.tensor([[9], [6]])
        return model, inputs

    return make


class Convolutional(nn.Module):
    """A speech front end: convolutions and an LSTM, with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(20, 48, 3, padding="same"), nn.ReLU(), nn.ConvTranspose1d(48, 48, 3))
        self.rnn = nn.LSTM(48, 40, batch_first=True)
        self.head = nn.Linear(40, 33)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.front(x).transpose(1, 2)
        hidden, _ = self.rnn(hidden)
        return self.head(hidden)


class Cells(nn.Module):
    """A loop over recurrent cells."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(40, 48), nn.GRUCell(48, 48), nn.RNNCell(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        h, c = x.new_zeros(x.shape[0], 48), x.new_zeros(x.shape[0], 48)
        for step in range(2):
            h, c = self.lstm(x[:, step], (h, c))
        return self.rnn(self.gru(h, c))


class Autocast(nn.Module):
    """A float32 block that computes in bfloat16 by an autocast of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.mix = nn.Parameter(torch.randn(64, 64) / 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = x + self.attention(x, x, x, need_weights=False)[0]
            x = x + torch.einsum("btd,ed->bte", x, self.mix)
            x = x + self.down(torch.relu(self.up(x)))
            return torch.addmm(self.down.bias, x.reshape(-1, 64), self.mix)


class Checkpointed(nn.Module):
    """A block run under activation checkpointing, which makes a graph within the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return self.outer(checkpoint(lambda h: torch.relu(self.inner(h)).softmax(-1), x, use_reentrant=False))


def weight_norm() -> tuple[nn.Module, dict[str, Any]]:
    from torch.nn.utils import parametrizations

    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(64, 48)), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(48, 32)))
    return model.eval(), {"input": torch.randn(5, 64)}


def module(make: Callable[[], nn.Module], *shape: int) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    """Return a maker of a module of one input ``x``."""
    return lambda: (make().eval(), {"x": torch.randn(*shape)})


MODULES = [
    Case("einsum", module(Einsum, 2, 9, 64), 4),
    Case("transformer", transformer, 20),
    Case("encoder", encoder(False, False), 8),
    Case("encoder-norm-first", encoder(True, False), 8),
    Case("encoder-padding", encoder(False, True), 8),
    Case("attention-weights", attention(True, True, ""), 2),
    Case("attention", attention(False, True, ""), 2),
    Case("attention-sequence-first", attention(False, False, "causal"), 2),
    Case("attention-padding", attention(True, True, "padding"), 2),
    Case("attention-both-masks", attention(False, True, "causal padding"), 2),
    Case("convolutional", module(Convolutional, 2, 20, 15), 0, fullgraph=False),
    Case("cells", module(Cells, 3, 2, 40), 8),
    Case("autocast", module(Autocast, 2, 5, 64), 6),
    Case("checkpoint", module(Checkpointed, 5, 64), 1),
    Case("weight-norm", weight_norm, 1),
]
