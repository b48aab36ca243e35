"""Data-parallel training: two processes average the gradients of their own noise, and stay equal."""

import json
from pathlib import Path

from helpers import forks

PROGRAM = """
import json, os, sys, tempfile
import torch, torch.distributed as dist

sys.path.insert(0, sys.argv[1])

def work(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(store, 2))
    from helpers.training import Model, loss_of, text
    torch.manual_seed(0)
    model = Model()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    run = torch.compile(parallel, backend="lowbit", options={"recipe": "int8-training", "remainder": "eager"})
    torch.manual_seed(100 + rank)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(run, text(4)[2 * rank : 2 * rank + 2])
        loss.backward()
        optimizer.step()
        dist.all_reduce(loss.detach())
        losses.append(loss.item())
    sums = [float(p.double().sum()) for p in model.parameters()]
    import lowbit_compiler
    open(out, "w").write(json.dumps([losses, sums, len(lowbit_compiler.last_report().rewritten)]))
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


def test_two_processes() -> None:
    done = forks.run(PROGRAM, str(Path(__file__).parents[1]))
    assert done.returncode == 0, done.stderr
    codes, first, second = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0, 0]
    assert first[1] == second[1]  # the parameters, though each process drew its own noise
    assert first[2] > 0
    alone = _alone()
    for got, want in zip(zip(first[0], second[0], strict=True), alone, strict=True):
        assert abs(sum(got) / 4 - want) < 0.02 * want  # summed over both by all_reduce


def _alone() -> list[float]:
    """The losses of one process with both halves of the batch, in float."""
    import torch

    from helpers.training import Model, loss_of, text

    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(model, text(4))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
