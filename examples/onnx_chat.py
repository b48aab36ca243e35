"""Export SmolLM2-135M-Instruct with its key/value cache to ONNX, then answer a question from the file alone, in ONNX Runtime.

python examples/onnx_chat.py export smollm2.onnx [--recipe int8]
python examples/onnx_chat.py ask smollm2.onnx "What is the capital of France? Answer in one sentence."

The file takes `input_ids` [batch, length] and, for each layer, the keys and values of the tokens before them [batch, heads, past, 64], and
returns the logits with the longer cache. At first `past` is 0. The second command needs onnxruntime and the tokenizer, no model in PyTorch.
"""

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowbit_compiler.demo import model as demo

LAYERS, HEADS, WIDTH = 30, 3, 64  # of the cache


class WithCache(nn.Module):
    """A transformers language model whose cache is plain tensors, in and out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, past: list[list[Tensor]]) -> dict[str, Any]:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (key, value) in enumerate(past):
            cache.update(key, value, layer)
        result = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        return {"logits": result.logits, "present": [[layer.keys, layer.values] for layer in result.past_key_values.layers]}


def example(model: nn.Module, layers: int = LAYERS) -> tuple[WithCache, dict[str, Any], dict[str, Any]]:
    """Return the model to export, example inputs, and the names of the sizes that may change."""
    past = [[torch.zeros(2, HEADS, 5, WIDTH) for _ in range(2)] for _ in range(layers)]
    inputs = {"input_ids": torch.ones(2, 3, dtype=torch.int64), "past": past}
    shapes = {"input_ids": {0: "batch", 1: "length"}, "past": [[{0: "batch", 2: "past"}] * 2 for _ in past]}
    return WithCache(model).eval(), inputs, shapes


def export(path: str, recipe: str) -> None:
    """Write the file, and say what was done."""
    import lowbit_compiler as lowbit

    model, inputs, shapes = example(demo.load(torch.float32).model)
    report = lowbit.export_onnx(model, inputs, path, recipe=recipe, dynamic_shapes=shapes, progress=print)
    print(report.summary(), *report.notes, sep="\n")


def generate(session: Any, ids: list[int], stop: int, most: int) -> list[int]:
    """Return what follows ``ids``: at each step the likeliest token, until ``stop`` or ``most`` of them."""
    names = [given.name for given in session.get_inputs()]
    results = [result.name for result in session.get_outputs()]
    cache = [np.zeros((1, HEADS, 0, WIDTH), np.float32) for _ in names[1:]]
    new, answer = ids, list[int]()
    while len(answer) < most:
        feeds = {names[0]: np.array([new], np.int64), **dict(zip(names[1:], cache, strict=True))}
        logits, *cache = session.run(results, feeds)
        new = [int(logits[0, -1].argmax())]
        if new[0] == stop:
            break
        answer += new
    return answer


def ask(path: str, question: str) -> str:
    """Return the answer of the file ``path`` to ``question``."""
    from lowbit_compiler.exits.onnx.session import session

    tokenizer = demo.tokenizer()
    ids = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False)
    answer = generate(session(path), list(ids), tokenizer.eos_token_id, 60)
    return str(tokenizer.decode(answer)).strip()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("export", "ask"))
    parser.add_argument("path")
    parser.add_argument("question", nargs="?", default="What is the capital of France? Answer in one sentence.")
    parser.add_argument("--recipe", default="int8")
    args = parser.parse_args()
    if args.what == "export":
        export(args.path, args.recipe)
    else:
        print(ask(args.path, args.question))


if __name__ == "__main__":
    main()
