"""The checks of `make gpu-check`: all of them where there is a GPU; elsewhere what needs none, so that the script itself works."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lowbit_compiler import runtime  # noqa: F401  registers the ops

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import gpu_bench
import gpu_check
import gpu_models
import gpu_tests


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.parametrize("check", [*gpu_tests.CHECKS, *gpu_tests.GPU_CHECKS], ids=lambda check: check.__name__)
def test_check(check):
    assert list(check("cuda")) == []


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


def test_what_does_not_fit_leaves_the_other_results(monkeypatch, capsys):
    def no_memory(rows, *rest):
        if rows == 16:
            raise torch.OutOfMemoryError("no room")
        return operands(rows, *rest)

    def no_model(*args):
        raise torch.OutOfMemoryError("no room either")

    operands = gpu_bench.operands
    monkeypatch.setattr(gpu_bench, "operands", no_memory)
    monkeypatch.setattr(gpu_bench, "small_llama", no_model)
    monkeypatch.setattr(gpu_bench, "WIDTHS", (96,))
    gpu_bench.main("cpu", ROOT)
    said = capsys.readouterr().out
    assert "16 x 96 x 384 left out: OutOfMemoryError: no room" in said
    assert "the table model ends here: OutOfMemoryError: no room either" in said
    assert said.splitlines()[-1].startswith("1 x 96 x 384")
    assert "nan" not in said


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
