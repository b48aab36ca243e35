"""Models with random weights and planted outliers, shaped like those that are compiled in earnest; no file or network is needed."""

import torch
from torch import Tensor, nn

PLANTED = 1 / 300  # share of channels that stand out
SIZE = 20.0  # how far

Caches = list[tuple[Tensor, Tensor]]


class Layer(nn.Module):
    """One layer of a Llama: normed attention with rotary halves over what is cached and what is new, and a gated MLP."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cache: tuple[Tensor, Tensor] | None) -> Tensor:
        h = self.norm1(x)
        q, k, v = (part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        past = 0 if cache is None else cache[0].shape[2]
        place = torch.arange(past, past + x.shape[1], device=x.device)[:, None]
        angle = place / 10000 ** torch.linspace(0, 1, q.shape[-1] // 2, device=x.device)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        q, k = (torch.cat([a * cos - b * sin, b * cos + a * sin], -1) for a, b in (q.chunk(2, -1), k.chunk(2, -1)))
        if cache is not None:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x = x + self.o(attended.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        mlp: Tensor = self.down(nn.functional.silu(self.gate(h)) * self.up(h))
        return x + mlp


class Llama(nn.Module):
    """Layers between an embedding and a head; outlier channels come from the norms, as in trained models."""

    def __init__(self, layers: int, width: int, heads: int, inner: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, heads, inner) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.RMSNorm):
                _plant(module.weight)

    def forward(self, tokens: Tensor, caches: Caches | None = None) -> Tensor:
        x = self.embedding(tokens)
        for i, layer in enumerate(self.layers):
            x = layer(x, None if caches is None else caches[i])
        logits: Tensor = self.lm_head(self.norm(x[:, -1:]))
        return logits

    def caches(self, length: int) -> Caches:
        """Return random keys and values of ``length`` positions for each layer, where and in what the weights are."""
        like = self.lm_head.weight
        layer = self.layers[0]
        assert isinstance(layer, Layer)
        shape = (1, layer.heads, length, like.shape[1] // layer.heads)
        return [(torch.randn_like(like[:1, :1].expand(shape)), torch.randn_like(like[:1, :1].expand(shape))) for _ in self.layers]


@torch.no_grad()
def _plant(weight: Tensor) -> None:
    chosen = torch.randperm(weight.numel())[: max(int(weight.numel() * PLANTED), 1)]
    weight[chosen] *= SIZE


def small_llama() -> Llama:
    """A model that compiles in seconds."""
    return Llama(layers=2, width=512, heads=8, inner=1376, vocabulary=1000)


def llama_1b() -> Llama:
    """1.1 billion weights."""
    return Llama(layers=16, width=2048, heads=32, inner=8192, vocabulary=32000)
