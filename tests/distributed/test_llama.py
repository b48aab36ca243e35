"""Two layers of Llama over several processes: every linear is rewritten, and the logits are those of the parts in one process."""

from pathlib import Path

import pytest
import torch

from helpers import parallel_llama, ranks
from helpers.compiled import COSINE, compiled, cosine
from helpers.tensor_parallel import apart, emulated


@pytest.mark.model
@pytest.mark.parametrize(("plan", "world"), [("auto", 2), ("parallelize_module", 2), ("auto", 4)])
def test_every_linear_is_rewritten(tmp_path: Path, folder: Path, plan: str, world: int) -> None:
    found = ranks.run("helpers.parallel_llama:answers", tmp_path, str(folder), plan, world=world)
    model = parallel_llama.load(folder)
    torch.compiler.reset()
    with torch.no_grad(), apart():
        exact = parallel_llama.logits(model)
        want = parallel_llama.logits(compiled(emulated(model, *parallel_llama.BY_COLUMNS, world=world)))
    for each in found:
        decisions = {name: what for name, kind, what, _ in each["sites"] if kind == "linear"}
        assert decisions == dict.fromkeys((*parallel_llama.BY_ROWS, *parallel_llama.BY_COLUMNS, parallel_llama.HEAD), "rewritten")
        assert each["packed"] == (4 * parallel_llama.LAYERS + 1, 0)  # q, k and v are one, and gate and up
        assert torch.equal(each["first"], each["second"])
        assert torch.equal(each["first"], found[0]["first"])
        assert cosine(each["first"], exact) >= COSINE
        if world == 2:  # a sum of more has no order
            assert torch.equal(each["first"], want)
