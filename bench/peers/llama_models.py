"""llama.cpp on the CPU, through the functions of its C interface: logits of every token, as the other contestants compute them.

The model comes as Q4_1, so Q4_1 here is exactly the weights that everyone else starts from; other types are made from it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
import torch
from columns import Case
from tasks import Task, start_of, text_ids
from torch import Tensor

from lowbit_compiler.demo import model


def build(task: Task, case: Case, file_type: str) -> Callable[..., Any]:
    """Quantize once, keep the result in the folder of caches, and start a context."""
    llama.llama_backend_init()
    path = _file(file_type)
    net = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    return _Decode(net, case) if case.cached else _Prefill(net, case)


def _file(file_type: str) -> Path:
    packaged = model.model_folder() / model.FILE
    path = Path(os.environ["BENCH_CACHE"]) / f"{file_type}.gguf"
    if file_type == "Q4_1":
        return packaged
    if not path.exists():
        settings = llama.llama_model_quantize_default_params()
        settings.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{file_type}")
        settings.allow_requantize = True
        part = path.with_suffix(".part")
        if llama.llama_model_quantize(str(packaged).encode(), str(part).encode(), settings) != 0:
            raise RuntimeError(f"llama.cpp could not make {file_type}")
        part.rename(path)
    return path


class _Context:
    """A context with room for ``sequences`` of ``tokens`` each, and a batch to fill."""

    def __init__(self, net: Any, sequences: int, tokens: int, most: int) -> None:
        settings = llama.llama_context_default_params()
        settings.n_ctx = sequences * tokens
        settings.n_batch = settings.n_outputs_max = most
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        self.context = llama.llama_init_from_model(net, settings)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context")
        self.memory = llama.llama_get_memory(self.context)
        self.batch = llama.llama_batch_init(most, 0, sequences)
        self.vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(net))

    def compute(self, ids: np.ndarray[Any, Any], start: int = 0, logits: bool = True) -> None:
        """Run ids [sequences, tokens] from position ``start`` on."""
        batch = self.batch
        batch.n_tokens = ids.size
        for i, (place, token) in enumerate(np.ndenumerate(ids)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), start + place[1], 1, logits
            batch.seq_id[i][0] = place[0]
        status = llama.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: status {status}")
        llama.llama_synchronize(self.context)

    def logits(self, count: int) -> np.ndarray[Any, Any]:
        """Return the last logits [count, vocabulary] without copying them."""
        return np.ctypeslib.as_array(llama.llama_get_logits(self.context), (count, self.vocabulary))


class _Prefill(_Context):
    """Every call starts from nothing."""

    def __init__(self, net: Any, case: Case) -> None:
        super().__init__(net, case.batch, max(case.tokens, 32), case.batch * case.tokens)

    def __call__(self, ids: Tensor) -> np.ndarray[Any, Any]:
        """Return logits [batch, tokens, vocabulary]."""
        llama.llama_memory_clear(self.memory, False)
        self.compute(ids.numpy())
        return self.logits(ids.numel()).reshape(*ids.shape, -1)


class _Decode(_Context):
    """Some tokens a call; the context grows until it is rewound."""

    def __init__(self, net: Any, case: Case) -> None:
        super().__init__(net, case.batch, case.tokens, case.batch * case.tokens)
        self.sequences = case.batch
        self.start = self.position = start_of(case)
        self.compute(text_ids()[:, : self.start].repeat(case.batch, 1).numpy(), logits=False)

    def rewind(self) -> None:
        """Forget what was added."""
        for sequence in range(self.sequences):
            llama.llama_memory_seq_rm(self.memory, sequence, self.start, -1)
        self.position = self.start

    def __call__(self, ids: Tensor, *_: object) -> object:
        """Take one step."""
        self.compute(ids.numpy(), self.position)
        self.position += ids.shape[1]
        return self.logits(ids.numel())
