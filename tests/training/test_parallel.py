"""Data-parallel training: two processes average the gradients of their own noise, and stay equal."""

import json
from pathlib import Path

import pytest
import torch

from helpers import forks
from helpers.compiled import compiled
from helpers.training import learner, text, train

PROGRAM = """
import json, os, sys, tempfile
import torch, torch.distributed as dist

sys.path.insert(0, sys.argv[1])

def replicated(model):
    return torch.nn.parallel.DistributedDataParallel(model)

def sharded(model):
    from torch.distributed.fsdp import fully_shard
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)

def work(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(store, 2))
    from helpers.compiled import reports_of
    from helpers.training import learner, text, train
    wrapped, found = {"ddp": replicated, "fsdp": sharded}[sys.argv[2]], {}
    for recipe in sys.argv[3:]:
        torch.compiler.reset()
        model = learner(recipe)
        run = torch.compile(wrapped(model), backend="lowbit", options={"recipe": recipe, "remainder": "eager"})
        torch.manual_seed(100 + rank)
        losses, reports = reports_of(lambda: train(model, run, text(4)[2 * rank : 2 * rank + 2]))
        losses = torch.tensor(losses)
        dist.all_reduce(losses)
        whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
        rows = [(site.module, site.op, site.decision) for report in reports for site in report.sites]
        found[recipe] = (losses / 2).tolist(), [p.double().sum().item() for p in whole], rows
    open(out, "w").write(json.dumps(found))
    dist.destroy_process_group()

folder = tempfile.mkdtemp()
children = []
for rank in range(2):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(rank, folder + "/store", f"{folder}/{rank}")
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(json.dumps([codes, *(json.load(open(f"{folder}/{rank}")) for rank in range(2))]))
"""


NOISY = ("int8-training", "int4-training-paper")
EXACT = "ternary-training"
"""Its backward products are float ones: nothing is drawn, so that two processes and one differ by roundings alone."""


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes(kind: str) -> None:
    done = forks.run(PROGRAM, str(Path(__file__).parents[1]), kind, *NOISY, EXACT)
    assert done.returncode == 0, done.stderr
    codes, first, second = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0, 0]
    for recipe in (*NOISY, EXACT):
        losses, sums, rows = first[recipe]
        assert [losses, sums] == second[recipe][:2]  # the parameters, though each process drew its own noise
        rewritten = {module for module, op, decision in rows if decision == "rewritten" and op == "linear dW"}
        assert rewritten
        assert all(name.startswith("blocks.") for name in rewritten)
        assert (
            kind == "fsdp" or ["head", "linear", "declined"] in rows
        )  # FSDP2's hooks are run by Python, and what is beside the blocks too
        model = learner(recipe)
        want = train(model, compiled(model, recipe), text(4))
        same = len(want) if recipe == EXACT else 1  # the first loss is that of rows which are quantized alone
        torch.testing.assert_close(losses[:same], want[:same], rtol=1e-5, atol=0)
        torch.testing.assert_close(losses, want, rtol=0.02 if recipe == NOISY[0] else 0.1, atol=0)
