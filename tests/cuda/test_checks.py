"""The checks of `make gpu-check`: all of them where there is a GPU; elsewhere what needs none, so that the script itself works."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from lowbit_compiler import runtime  # noqa: F401  registers the ops

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import gpu_bench
import gpu_check
import gpu_models
import gpu_steps
import gpu_tests

from lowbit_compiler.recipes import WITH_KERNELS

COMPILED = gpu_tests.compile_checks(WITH_KERNELS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.parametrize("check", [*gpu_tests.CHECKS, *gpu_tests.GPU_CHECKS], ids=lambda check: check.__name__)
def test_check(check):
    assert list(check("cuda")) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.parametrize("name", COMPILED)
def test_compile_check(name):
    assert list(COMPILED[name]("cuda")) == []


@pytest.fixture
def small(monkeypatch):
    """On the CPU the checks are only tried: without the shape that has the largest tiles."""
    monkeypatch.setattr(gpu_tests, "WIDTHS", gpu_tests.WIDTHS[:3])


@pytest.mark.usefixtures("small")
def test_ops_agree_with_themselves():
    assert list(gpu_tests.ops_agree("cpu")) == []


@pytest.mark.usefixtures("small")
def test_a_wrong_result_is_found(monkeypatch):
    monkeypatch.setattr(
        gpu_tests, "_moved", lambda value, device: value * 1.01 if isinstance(value, torch.Tensor) and value.is_floating_point() else value
    )
    wrong = list(gpu_tests.ops_agree("cpu"))
    assert {line.split()[0] for line in wrong} >= {"rotate", "linear_s8s8", "quantize_s8"}


def test_an_op_that_fails_does_not_hide_the_others(monkeypatch):
    def results(op, args):
        raise ValueError("no luck")

    monkeypatch.setattr(gpu_tests, "_results", results)
    monkeypatch.setattr(gpu_tests, "WIDTHS", gpu_tests.WIDTHS[2:3])
    wrong = list(gpu_tests.ops_agree("cpu"))
    assert len(wrong) == len(gpu_tests.ROWS) * len(gpu_tests.DTYPES) * len(gpu_tests.op_calls(1, 8, 8, torch.float32))
    assert all("(ValueError: no luck)" in line for line in wrong)


def test_one_gpu_cannot_be_two(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert list(gpu_tests.devices_are_respected("cuda")) == []
    assert "the second-device check is skipped" in capsys.readouterr().out


def test_every_way_to_multiply_gives_the_product_of_each_weight_in_turn():
    torch.manual_seed(0)
    x, weights = gpu_bench.operands(3, 96, 64, 2, "cpu")
    calls = gpu_bench.product_calls(x, weights)
    for w in (*weights, weights[0]):
        want = (x @ w.t()).float()
        for name, call in calls.items():
            error = (call().float() - want).norm() / want.norm()
            assert error < (0.3 if name == "fs4" else 0.1), (name, float(error))


def test_what_does_not_fit_is_an_error_of_any_kind_and_leaves_the_other_results(monkeypatch, capsys):
    """Out of memory in torch is an OutOfMemoryError, in an op of ours its base class."""

    def no_memory(rows, *rest):
        if rows > 1:
            raise (torch.OutOfMemoryError if rows == 16 else RuntimeError)("no room")
        return operands(rows, *rest)

    operands = gpu_bench.operands
    monkeypatch.setattr(gpu_bench, "operands", no_memory)
    log = gpu_steps.Log({"device": "cpu", "torch": "any"}, [])
    steps = [gpu_steps.Step(gpu_bench.size(rows, 96), partial(gpu_bench.product, "cpu", rows, 96), "products") for rows in (16, 8, 1)]
    assert gpu_steps.run(steps, log, 60) == []
    gpu_bench.summary(log.content)
    said = capsys.readouterr().out
    assert "16 x 96 x 384 left out: OutOfMemoryError: no room" in said
    assert "8 x 96 x 384 left out: RuntimeError: no room" in said
    assert said.splitlines()[-1].startswith("1 x 96 x 384")
    assert "-" not in said.splitlines()[-1]


def test_peers_that_are_not_installed_or_fail_are_left_out(monkeypatch, capsys):
    x, weights = gpu_bench.operands(3, 96, 64, 1, "cpu")
    monkeypatch.setattr(gpu_bench, "PEERS", {"no_such_package": gpu_bench.PEERS["torchao"], "json": lambda x, weights: lambda: 1 / 0})
    assert gpu_bench.installed_peers() == ["json"]
    assert gpu_bench.peer_calls(x, weights) == {}
    assert capsys.readouterr().out == "  json left out: ZeroDivisionError: division by zero\n"


def test_the_model_decodes_what_it_would_prefill():
    model = gpu_models.Llama(layers=2, width=64, heads=4, inner=96, vocabulary=50)
    tokens = torch.randint(50, (1, 5))
    with torch.no_grad():
        assert model(tokens).shape == (1, 1, 50)
        assert model(tokens[:, :1], model.caches(7)).shape == (1, 1, 50)
        assert {tuple(part.shape) for layer in model.caches(7) for part in layer} == {(1, 4, 7, 16)}


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, gpu_check.__file__], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "gpu-check: no GPU that torch can use; nothing was checked\n"
