"""Writes tests/checkpoints/files: small checkpoints packed by the code of GPTQModel and AutoAWQ, which need a GPU's packages to be imported whole,
and by bitsandbytes.

    pip download --no-deps --no-binary :all: gptqmodel==7.7.0 autoawq==0.2.9    # and unpack both
    pip install --no-deps bitsandbytes==0.50.2
    python tests/checkpoints/write_files.py GPTQMODEL AUTOAWQ

Their own packing functions are taken out of their sources. ``expected.safetensors`` has codes, zero points and scales as they were before packing.
"""

import ast
import contextlib
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent / "files"
SIZES = {"first": (64, 128), "second": (32, 64)}
GROUP = 32


def taken(source: Path, name: str, **names: Any) -> Any:
    """Return one function of a file, with what it reads."""
    tree = ast.parse(source.read_text())
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)
    found.decorator_list, found.returns = [], None
    exec(compile(ast.Module([found], []), str(source), "exec"), names)  # noqa: S102
    return names[name]


def quantized(n: int, k: int, symmetric: bool) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """Return a linear whose weight is on the grid, its codes, scales [N, G] in float16's numbers, and zero points."""
    groups = k // GROUP
    scales = (torch.rand(n, groups) * 0.02 + 0.01).half().float()
    zeros = torch.full((n, groups), 8.0) if symmetric else torch.randint(1, 16, (n, groups)).float()
    codes = torch.randint(0, 16, (n, k))
    linear = nn.Linear(k, n)
    each = [number.repeat_interleave(GROUP, 1) for number in (scales, zeros)]
    linear.weight.data = (codes - each[1]) * each[0]
    return linear, codes, scales, zeros


def gptq(package: Path, form: str, symmetric: bool) -> None:
    """Write a folder of GPTQModel."""
    layers = package / "gptqmodel/nn_modules/qlinear/__init__.py"
    limits = types.SimpleNamespace(threadpool_limits=lambda _: contextlib.nullcontext())
    pack = taken(
        layers,
        "pack_original",
        t=torch,
        nn=nn,
        np=np,
        math=math,
        transformers=transformers,
        THREADPOOLCTL=limits,
        _ConvNd=nn.modules.conv._ConvNd,
    )
    tensors, expected = {}, {}
    for name, (n, k) in SIZES.items():
        linear, codes, scales, zeros = quantized(n, k, symmetric)
        packed: Any = nn.Module()
        vars(packed).update(
            bits=4, maxq=15, pack_dtype_bits=32, pack_factor=8, planar=False, pack_np_math_dtype=np.uint32, pack_np_dtype=np.int32
        )
        pack(packed, linear, scales, zeros.int(), torch.arange(k, dtype=torch.int32) // GROUP)
        if form == "gptq":  # convert_gptq_v2_to_v1_format_module in gptqmodel/utils/model.py
            packed.qzeros -= 0b00010001000100010001000100010001
        tensors |= {f"{name}.{key}": getattr(packed, key) for key in ("qweight", "qzeros", "scales", "g_idx", "bias")}
        expected |= {f"{name}.codes": codes.to(torch.uint8), f"{name}.zeros": zeros, f"{name}.scales": scales}
    config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": symmetric, "desc_act": False, "checkpoint_format": form}
    _write(form, tensors, expected, config)


def awq(package: Path) -> None:
    """Write a folder of AutoAWQ."""
    source = package / "awq/modules/linear/gemm.py"
    from_linear = taken(source, "from_linear", torch=torch, get_best_device=lambda: "cpu")
    tensors, expected = {}, {}

    def made(bits: int, group: int, k: int, n: int, bias: bool, device: Any) -> Any:
        return types.SimpleNamespace(w_bit=bits, group_size=group, in_features=k, out_features=n)

    for name, (n, k) in SIZES.items():
        linear, codes, scales, zeros = quantized(n, k, symmetric=False)
        packed = from_linear(made, linear, 4, GROUP, scales=scales.t().contiguous(), zeros=zeros.t().contiguous())
        tensors |= {f"{name}.{key}": getattr(packed, key).contiguous() for key in ("qweight", "qzeros", "scales", "bias")}
        expected |= {f"{name}.codes": codes.to(torch.uint8), f"{name}.zeros": zeros, f"{name}.scales": scales}
    _write("awq", tensors, expected, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True})


def bitsandbytes() -> None:
    """Write a folder of bitsandbytes, in the names that transformers gives its state."""
    import bitsandbytes as bnb

    tensors, expected = {}, {}
    for name, (n, k) in SIZES.items():
        linear = bnb.nn.Linear8bitLt(k, n, has_fp16_weights=False)
        linear.load_state_dict(nn.Linear(k, n).state_dict())
        codes, largest, _ = bnb.functional.int8_vectorwise_quant(linear.weight.data.half())
        linear.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=largest)
        tensors |= {f"{name}.{key}": tensor for key, tensor in linear.state_dict().items()}
        weight = bnb.functional.int8_vectorwise_dequant(codes, largest)
        expected |= {f"{name}.codes": codes, f"{name}.weight": weight.float()}
    _write("bitsandbytes", tensors, expected, {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False})


def _write(name: str, tensors: dict[str, Tensor], expected: dict[str, Tensor], config: dict[str, Any]) -> None:
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: tensor.detach().contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    save_file({key: tensor.contiguous() for key, tensor in expected.items()}, folder / "expected.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}, indent=1) + "\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        gptq(Path(sys.argv[1]), "gptq", symmetric=True)
        gptq(Path(sys.argv[1]), "gptq_v2", symmetric=False)
        awq(Path(sys.argv[2]))
        bitsandbytes()
