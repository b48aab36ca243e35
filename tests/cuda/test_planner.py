"""What the compiler does for a GPU that can be seen without one; tensors of the meta device stand in for its tensors."""

import torch
import torch.nn.functional as F
from torch import nn

from helpers.graphs import calls, capture, context, run_until
from lowbit_compiler.exits import runtime
from lowbit_compiler.passes.contract import Target
from lowbit_compiler.passes.site import Reason
from lowbit_compiler.pricing import gpu as gpu_timing
from lowbit_compiler.pricing import linear as linear_costs
from lowbit_compiler.pricing import machine
from lowbit_compiler.runtime import cuda_library

META = Target(device="meta", attention=False)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(128, 192), nn.Linear(64, 128)

    def forward(self, x):
        q, k, v = self.inner(x).view(2, 16, 3, 4, 16).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.outer(mixed).softmax(-1)


def test_passes_take_any_device_and_leave_attention_to_torch():
    captured, _ = capture(Attention().requires_grad_(False).to("meta"), torch.randn(2, 16, 128, device="meta"))
    ctx = context(captured)
    ctx.target = META
    run_until(captured, ctx)
    made = calls(captured.gm)
    assert made.count("lowbit.linear_s8s8_rotated") == 2
    assert made.count("lowbit.softmax") == 1
    assert "lowbit.sdpa" not in made
    details = {site.kind: site.detail for site in ctx.sites}
    assert details["attention"] == "no attention kernel for meta; torch's own is kept"


def by_hand(q, k, v):
    return (torch.matmul(q, k.transpose(-1, -2)) / 4).softmax(-1) @ v


def test_a_softmax_of_attention_by_hand_is_left_to_inductor():
    captured, _ = capture(lambda q, k, v: by_hand(q, k, v).softmax(-1), *torch.randn(3, 2, 4, 8, 16, device="meta"))
    ctx = context(captured)
    ctx.target = META
    run_until(captured, ctx)
    assert calls(captured.gm).count("lowbit.softmax") == 1  # the second, which is in no attention
    inner, outer = (site for site in ctx.sites if site.kind == "softmax")
    assert outer.whole is not None
    assert inner.reason is Reason.NO_KERNEL
    assert "keep Inductor from making one attention" in inner.detail
    assert "no attention kernel for meta" in inner.detail


def test_inductor_makes_one_attention_of_it(monkeypatch):
    """With the target of a GPU, so to speak, on the CPU."""
    monkeypatch.setattr(runtime, "target_for", lambda inputs: Target(attention=False))
    q, k, v = torch.randn(3, 2, 4, 8, 16)
    torch._dynamo.utils.counters.clear()
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):  # a graph from a cache is not looked through again
        got = torch.compile(by_hand, backend="lowbit", fullgraph=True, options={"plan": "always"})(q, k, v)
    torch.testing.assert_close(got, by_hand(q, k, v))
    assert torch._dynamo.utils.counters["inductor"]["fuse_attention"] == 1


def test_what_is_declined_says_why():
    captured, _ = capture(nn.Linear(128, 64).requires_grad_(False).to("meta"), torch.randn(2, 128, device="meta"))
    ctx = context(captured)
    ctx.target = Target(note="the CUDA library is not loaded: no reason")
    run_until(captured, ctx)
    assert [site.detail for site in ctx.sites] == ["no kernels for meta tensors; accepted: cpu; the CUDA library is not loaded: no reason"]


def test_a_cpu_graph_has_the_cpu_as_its_target():
    assert machine.target_for([torch.zeros(1), 3]).device == "cpu"
    assert machine.target_for([torch.zeros(1), 3]).note == ""
    if cuda_library.status().path is None:
        assert cuda_library.status().reason
        assert machine.kernel_for("linear_s8s8", 1, 16, torch.float32, "cuda") == "reference"


def test_the_target_is_the_very_gpu_of_the_graph(monkeypatch):
    monkeypatch.setattr(machine, "_missing", lambda device: "")
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(1, device="cuda:1")
        target = machine.target_for([torch.empty(1), x])
    assert (target.device, target.kind) == ("cuda:1", "cuda")
    assert machine.target_for([torch.zeros(1)]).device == "cpu"


def test_times_of_a_gpu_are_of_larger_parts():
    assert linear_costs.limits_of("cuda").rows > linear_costs.limits_of("cpu").rows
    made = {"one": lambda: 1}
    assert gpu_timing.recorded(made, "cpu") is made
