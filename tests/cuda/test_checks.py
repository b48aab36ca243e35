"""The checks of `make gpu-check`: all of them where there is a GPU; elsewhere what needs none, so that the script itself works."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


def test_ops_agree_with_themselves():
    assert list(gpu_tests.ops_agree("cpu")) == []


def test_a_wrong_result_is_found(monkeypatch):
    monkeypatch.setattr(
        gpu_tests, "_moved", lambda value, device: value * 1.01 if isinstance(value, torch.Tensor) and value.is_floating_point() else value
    )
    wrong = list(gpu_tests.ops_agree("cpu"))
    assert {line.split()[0] for line in wrong} >= {"rotate", "linear_s8s8", "quantize_s8"}


def test_every_way_to_multiply_gives_the_product():
    torch.manual_seed(0)
    calls = gpu_bench.product_calls(3, 96, 64, "cpu")
    want = calls["bfloat16"]().float()
    for name, call in calls.items():
        error = (call().float() - want).norm() / want.norm()
        assert error < (0.3 if name == "fs4" else 0.1), (name, float(error))


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
