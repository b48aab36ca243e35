"""SmolLM2-135M-Instruct cut over several processes of this machine, against one: perplexity, logits and time.

python bench/distributed/tensor_parallel.py [--processes 3] [--tokens 2048] [--recipe int8]

With 3 processes all linears are cut; its 9 heads and 3 key heads do not go into 2 or 4, where attention stays whole in each process. The rest of the
graph runs eager, functions between products as torch has them: so ``tp_scales="shared"`` is to have one process's logits to the bit, which is checked.
Processes share the cores of this machine, with one thread each: the time says what cutting costs here, not what it gains on several.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
from processes import in_processes

import lowbit_compiler as lowbit
from lowbit_compiler.demo import model, text
from lowbit_compiler.demo.perplexity import perplexity

LENGTH = 512
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def cut(network: Any, processes: int) -> Any:
    """Return ``network``, a LlamaForCausalLM, with its linears split over the group."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    whole_heads = network.config.num_key_value_heads % processes == 0
    plan: dict[str, Any] = {}
    for name, module in network.named_modules():
        leaf = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Linear) and (whole_heads or leaf not in ATTENTION):
            plan[name] = RowwiseParallel() if leaf in ("o_proj", "down_proj") else ColwiseParallel()
    plan["lm_head"] = ColwiseParallel(output_layouts=Replicate())
    return parallelize_module(network, init_device_mesh("cpu", (processes,)), plan)


def measured(processes: int, recipe: str, tokens: int, scales: str = "local") -> dict[str, Any]:
    """Return what this process sees: perplexities, the logits of some tokens, seconds of a call, and what was rewritten."""
    loaded = model.load(torch.float32)
    network = cut(loaded.model, processes) if processes > 1 else loaded.model
    options = {"recipe": recipe, "remainder": "eager", "plan": "always", "tp_scales": scales}
    os.environ["LOWBIT_DISABLE"] = "prologue,chain"
    run = torch.compile(network, backend="lowbit", dynamic=False, options=options) if recipe != "float" else network

    def logits(ids: Tensor) -> Tensor:
        result: Tensor = run(ids, use_cache=False).logits + 0  # what was gathered is waited for
        return result

    ids = text.token_ids(loaded.tokenizer, next(iter(text.TEXTS)), tokens)
    part = ids.flatten()[:LENGTH].unsqueeze(0)
    with torch.no_grad():
        result = {"logits": logits(part), "perplexity": perplexity(logits, ids)}
        result["seconds"] = statistics.median(common.batch(lambda: logits(part), 1) for _ in range(5))
    if recipe != "float":
        report = lowbit.last_report()
        linears = [site for site in report.sites if site.kind == "linear"]
        result["rewritten"] = f"{sum(site.decision == 'rewritten' for site in linears)} of {len(linears)}"
    return result


def main() -> None:
    """Measure, print, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--recipe", default="int8")
    args = parser.parse_args()
    results = {"float, one process": in_processes(1, measured, 1, "float", args.tokens)}
    results["one process"] = in_processes(1, measured, 1, args.recipe, args.tokens)
    for scales in ("local", "shared"):
        results[f"{args.processes} processes, {scales} scales"] = in_processes(
            args.processes, measured, args.processes, args.recipe, args.tokens, scales
        )
    exact, one = (results[name][0]["logits"].double() for name in ("float, one process", "one process"))
    rows = {}
    for name, ranks in results.items():
        assert all(torch.equal(each["logits"], ranks[0]["logits"]) for each in ranks), name
        row = ranks[0]
        logits = row.pop("logits").double()
        away = (logits - exact).square().mean().sqrt().item()
        rows[name] = {**row, "logits against float, root mean square": away, "bits of one process": torch.equal(logits, one)}
        print(name, rows[name], flush=True)
    about = common.about(1, recipe=args.recipe, tokens=args.tokens, length=LENGTH, cores=os.cpu_count(), load=os.getloadavg()[0])
    print("written to", common.write(f"tensor_parallel_{args.recipe}_{args.processes}.json", {"about": about, "rows": rows}))


if __name__ == "__main__":
    main()
