"""The workloads: a column of the benchmark is one case, or for single linears many."""

from dataclasses import dataclass

# (outputs, inputs): SmolLM2's qkv, output, gate and up, down, head; MiniLM's; square ones; a large one.
SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536), (49152, 576))
SHAPES += ((384, 384), (1536, 384), (384, 1536), (1024, 1024), (4096, 4096), (11008, 4096))
ROWS = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Case:
    """What is timed: ``batch`` sequences of ``tokens`` each; of a decoding step ``tokens`` is the length of the cache, ``new`` are added."""

    name: str
    kind: str  # prefill, decode, steps (decoding several tokens at once), sentences or linear
    tokens: int
    batch: int = 1
    new: int = 1
    outputs: int = 0
    inputs: int = 0

    @property
    def cached(self) -> bool:
        """Whether the model goes on from a cache."""
        return self.kind in ("decode", "steps")

    @property
    def per_call(self) -> int:
        """How many tokens one call takes in."""
        return self.batch * (self.new if self.cached else self.tokens)


COLUMNS: dict[str, tuple[Case, ...]] = {
    "prefill-512": (Case("prefill-512", "prefill", 512),),
    "prefill-32": (Case("prefill-32", "prefill", 32),),
    "prefill-1": (Case("prefill-1", "prefill", 1),),
    "prefill-128x8": (Case("prefill-128x8", "prefill", 128, 8),),
    "prefill-1x8": (Case("prefill-1x8", "prefill", 1, 8),),
    "decode-1024": (Case("decode-1024", "decode", 1024),),
    "decode-1024x8": (Case("decode-1024x8", "steps", 1024, 8),),
    "verify-1024": (Case("verify-1024", "steps", 1024, new=4),),
    "minilm-128x32": (Case("minilm-128x32", "sentences", 128, 32),),
    "linear": tuple(Case(f"{m} x {n} x {k}", "linear", m, outputs=n, inputs=k) for n, k in SHAPES for m in ROWS),
}

TITLES = {
    "prefill-512": "SmolLM2, 512 tokens",
    "prefill-32": "SmolLM2, 32 tokens",
    "prefill-1": "SmolLM2, 1 token",
    "prefill-128x8": "SmolLM2, 8 x 128 tokens",
    "prefill-1x8": "SmolLM2, 8 x 1 token",
    "decode-1024": "SmolLM2, next token, 1,024 cached",
    "decode-1024x8": "SmolLM2, next token of 8 sequences, 1,024 cached",
    "verify-1024": "SmolLM2, next 4 tokens at once, 1,024 cached",
    "minilm-128x32": "MiniLM, 32 sentences of 128 tokens",
    "linear": "single linears",
}
