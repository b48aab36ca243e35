"""A written weight is noticed at the next call, whoever wrote it and however; frozen weights are not looked at."""

import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from helpers.compiled import changed, compiled, cosine
from helpers.two_layers import SIZE, Model, new
from lowbit_compiler.compile import prepared
from lowbit_compiler.errors import ModuleFrozenError
from lowbit_compiler.runtime import fingerprint


def optimizer(name: str, **options: Any) -> Callable[[Model], None]:
    def step(model: Model) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        getattr(torch.optim, name)(model.parameters(), lr=0.2, **options).step()

    return step


def set_twice(model: Model) -> None:
    """The second memory may have the address of the first."""
    model.up.weight.data = model.up.weight.data + 1
    model.up.weight.data = model.up.weight.data * -3


def offload(model: Model) -> None:
    model.up.weight.data = torch.empty(0)
    model.up.weight.data = new()


def transpose(model: Model) -> None:
    model.up.weight.data = model.up.weight.data.t()


def load(assign: bool) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        model.load_state_dict({name: torch.randn_like(value) for name, value in model.state_dict().items()}, assign=assign)

    return change


def numpy(model: Model) -> None:
    model.up.weight.detach().numpy()[:] *= -2


def broadcast(model: Model) -> None:
    """Receive by gloo what another rank sends: it writes into the parameter's memory."""
    store = dist.HashStore()

    def rank(number: int, tensor: Tensor) -> None:
        group = dist.ProcessGroupGloo(store, number, 2)
        group.broadcast(tensor, 0).wait()

    sender = threading.Thread(target=rank, args=(0, new()))
    sender.start()
    rank(1, model.up.weight.data)
    sender.join()


def swap(model: Model) -> None:
    torch.utils.swap_tensors(model.up.weight, nn.Parameter(new(), requires_grad=False))


def replace(model: Model) -> None:
    model.up.weight = nn.Parameter(new(), requires_grad=False)


WRITES: dict[str, Callable[[Model], Any]] = {
    "copy_": lambda model: model.up.weight.copy_(new()),
    "one element": lambda model: model.up.weight[3, 4].add_(300),
    "fused Adam": optimizer("Adam", fused=True),
    "fused AdamW": optimizer("AdamW", fused=True),
    "fused SGD": optimizer("SGD", fused=True),
    "fused Adagrad": optimizer("Adagrad", fused=True),
    "foreach SGD": optimizer("SGD", foreach=True),
    "data.copy_": lambda model: model.up.weight.data.copy_(new()),
    "data.add_": lambda model: model.up.weight.data.add_(new()),
    "data =": lambda model: setattr(model.up.weight, "data", new()),
    "data = twice": set_twice,
    "data = nothing, then new": offload,
    "data = transposed": transpose,
    "load_state_dict": load(False),
    "load_state_dict, assigned": load(True),
    "numpy": numpy,
    "gloo broadcast": broadcast,
    "swap_tensors": swap,
    "new Parameter": replace,
}
NOTICED = [
    *((name, "int8") for name in WRITES),
    *((name, recipe) for recipe in ("llm-int8", "int4-weight-only") for name in ("one element", "data = transposed", "new Parameter")),
]


@pytest.mark.parametrize(("write", "recipe"), [(WRITES[name], recipe) for name, recipe in NOTICED], ids=map("-".join, NOTICED))
def test_noticed(write: Callable[[Model], Any], recipe: str) -> None:
    """The next call has the values of a model compiled after the write, bit for bit."""
    model, x = Model().eval().requires_grad_(False), torch.randn(4, SIZE)
    with torch.no_grad():
        got, want = changed(compiled(model, recipe), model, x, write)
        assert cosine(got, want) > 0.98
        torch._dynamo.reset()
        fresh = Model().eval()
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(compiled(fresh, recipe)(x), got)


@pytest.mark.parametrize(
    "write", [write for name, write in WRITES.items() if "data" in name], ids=[name for name in WRITES if "data" in name]
)
def test_compiled_after_the_write(write: Callable[[Model], Any]) -> None:
    model, x = Model().eval().requires_grad_(False), torch.randn(4, SIZE)
    with torch.no_grad():
        compiled(model)(x)
        write(model)
        torch._dynamo.reset()
        assert cosine(compiled(model)(x), model(x)) > 0.99


def test_one_element_compiled_anew() -> None:
    """Of a large weight a call looks at samples, a new compilation at everything."""
    model, x = nn.Linear(700, 700, bias=False).eval().requires_grad_(False), torch.randn(4, 700)
    with torch.no_grad():
        before = compiled(model)(x)
        model.weight.data[123, 45] += 100
        torch._dynamo.reset()
        got = compiled(model)(x)
    assert torch.equal(got[:, :123], before[:, :123])
    assert not torch.equal(got[:, 123], before[:, 123])


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_native", lambda: None)
    test_noticed(WRITES["data.copy_"], "int8")


@pytest.mark.parametrize("through_data", [False, True])
def test_written_while_a_call_packs(monkeypatch: pytest.MonkeyPatch, through_data: bool) -> None:
    """Another thread writes after a weight was read, before its packed form is kept: the next call packs again."""
    model, x = Model().eval().requires_grad_(False), torch.randn(4, SIZE)
    compute, late = prepared.compute, [new()]

    def computing(graph: Any, *sources: Tensor) -> Any:
        values = compute(graph, *sources)
        if late:
            value, weight = late.pop(), model.up.weight
            writer = threading.Thread(target=lambda: (weight.data if through_data else weight).copy_(value))
            writer.start()
            writer.join()
        return values

    run = compiled(model)
    monkeypatch.setattr(prepared, "compute", computing)
    with torch.no_grad():
        run(x)
        assert not late
        assert cosine(run(x), model(x)) > 0.99


def test_converted_by_swapping() -> None:
    """torch refuses to swap a parameter that something refers to weakly."""
    model, x = Model().eval().requires_grad_(False), torch.randn(4, SIZE)
    run = compiled(model, fullgraph=False)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with torch.no_grad():
            run(x)
            model.to(torch.bfloat16)
            assert cosine(run(x.bfloat16()), model(x.bfloat16())) > 0.99
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_table_that_is_written_when_read(kind: Any) -> None:
    """max_norm scales the rows that are looked up in place: a head tied to such a table is no constant."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = kind(64, 64, max_norm=0.5), nn.Linear(64, 64, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids))

    model, ids = Tied().eval().requires_grad_(False), torch.tensor([[1, 2, 3]])
    table = model.table.weight.clone()
    with torch.no_grad():
        got = compiled(model)(ids)
        model.table.weight.copy_(table)
        want = model(ids)
    assert torch.allclose(got, want, atol=64 * torch.finfo(torch.float32).eps)


def test_frozen() -> None:
    """Writes are not looked at; another module of the same code still has its own weights, and new memory is noticed, the old kept or not."""
    (first, second), x = (Model().eval().requires_grad_(False) for _ in range(2)), torch.randn(4, SIZE)
    runs = [compiled(model, weights="frozen") for model in (first, second)]
    with torch.no_grad():
        before = [run(x) for run in runs]
        assert all(cosine(got, model(x)) > 0.99 for got, model in zip(before, (first, second), strict=True))
        first.up.weight.copy_(new())
        assert torch.equal(runs[0](x), before[0])
        assert torch.equal(runs[1](x), before[1])
        second.up.weight = nn.Parameter(new(), requires_grad=False)
        assert cosine(runs[1](x), second(x)) > 0.99
        kept = second.up.weight.detach()
        second.up.weight.data = new()
        assert cosine(runs[1](x), second(x)) > 0.99
        del kept
        torch._dynamo.reset()
        assert cosine(compiled(first, weights="frozen")(x), first(x)) > 0.99


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("how", ["new Parameter", "data ="])
def test_exchanged_weights_leave_nothing(how: str) -> None:
    """60 exchanged weights of 8 MB each: what was freed is given back, though packed weights lie between."""
    model, x = nn.Linear(1024, 2048, bias=False).eval().requires_grad_(False), torch.randn(2, 1024)
    run = compiled(model)
    sizes = []
    with torch.no_grad():
        for i in range(60):
            weight = torch.randn(2048, 1024)
            if how == "data =":
                model.weight.data = weight
            else:
                model.weight = nn.Parameter(weight, requires_grad=False)
            del weight
            run(x)
            if i >= 10:
                sizes.append(resident())
    assert max(sizes[-10:]) < max(sizes[:10]) + 4 * model.weight.nbytes


def test_frozen_modules() -> None:
    """A weight of another kind raises; another module is another graph; written weights are noticed as ever."""
    (first, second), x = (Model().eval().requires_grad_(False) for _ in range(2)), torch.randn(4, SIZE)
    with torch.no_grad():
        runs = [compiled(model, modules="frozen") for model in (first, second)]
        for run, model in zip(runs, (first, second), strict=True):
            assert cosine(run(x), model(x)) > 0.99
        second.up.weight.data.neg_()
        assert cosine(runs[1](x), second(x)) > 0.99
        first.half()
        with pytest.raises(ModuleFrozenError, match=r"torch.float16.*torch.float32.*torch.compiler.reset"):
            runs[0](x)
        assert cosine(runs[1](x), second(x)) > 0.99


@pytest.mark.parametrize("change", ["dtype", "rows", "columns", "gradient"])
def test_frozen_modules_whose_weights_are_all_packed(change: str) -> None:
    class Only(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(96, 96, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)  # type: ignore[no-any-return]

    model, x = Only().eval().requires_grad_(False), torch.randn(4, 96)
    run = compiled(model, modules="frozen")
    assert cosine(run(x), model(x)) > 0.99
    shape = {"rows": (95, 96), "columns": (96, 95)}.get(change, (96, 96))
    dtype = torch.float16 if change == "dtype" else torch.float32
    model.layer.weight = nn.Parameter(torch.randn(shape, dtype=dtype), requires_grad=change == "gradient")
    with pytest.raises(ModuleFrozenError, match="a weight is"):
        run(x)


def test_frozen_modules_with_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(96, 96), nn.Linear(96, 96)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu())  # type: ignore[no-any-return]

    model, x = Tied().eval().requires_grad_(False), torch.randn(4, 96)
    run = compiled(model, modules="frozen")
    assert cosine(run(x), model(x)) > 0.99
    model.b.weight = nn.Parameter(torch.randn(96, 96), requires_grad=False)
    assert cosine(run(x), model(x)) > 0.99
