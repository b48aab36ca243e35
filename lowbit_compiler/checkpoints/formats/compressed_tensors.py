"""compressed-tensors (the files of llm-compressor, which vLLM and transformers read): int8 rows and 4-bit groups, both ways, integers as they are."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.checkpoints.formats.common import ROWS, groups, rows_of, scales_of
from lowbit_compiler.checkpoints.scheme import WEIGHT, Scheme
from lowbit_compiler.checkpoints.source import Source, Stored, exact
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError, OptionError
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats.s4 import S4
from lowbit_compiler.runtime.formats.scales import Groups
from lowbit_compiler.runtime.reference.dense import row_bytes

METHOD = "compressed-tensors"
INT, PACKED = "int-quantized", "pack-quantized"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
ACCEPTED = f"{INT} with 8 bits, and {PACKED} with 4 bits (groups of a multiple of 32, or channels), symmetric, without activation order"


def config(schemes: Mapping[str, Scheme], recipe: Recipe | None, left: Sequence[str]) -> dict[str, Any]:
    """Return the ``quantization_config``; ``left`` are the linears that stay float."""
    linears: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        if _format(scheme) is None:
            raise OptionError(
                f"format {METHOD!r} holds int8 rows and symmetric int4 groups without a treatment; {name!r} is {scheme.operand.name}, treatment "
                f"{scheme.treatment.name!r}: take format='lowbit', or recipe 'int8-vector', 'int8-weight-only' or one with int4-symmetric weights"
            )
        linears.setdefault(scheme, []).append(name)
    rounded = recipe is not None and recipe.plan.x is not None
    said = {}
    for number, (scheme, names) in enumerate(linears.items()):
        activations = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
        said[f"group_{number}"] = {
            "targets": ["Linear"] if len(linears) == 1 else names,
            "weights": _weights(scheme),
            "input_activations": activations if rounded and scheme.operand == ROWS else None,
            "output_activations": None,
            "format": _format(scheme),
        }
    formats = {_format(scheme) for scheme in linears}
    ignored = list(left) if len(linears) == 1 else []
    whole = {"format": formats.pop() if len(formats) == 1 else "mixed-precision", "quantization_status": "compressed"}
    return {"quant_method": METHOD, **whole, "config_groups": said, "ignore": ignored}


def tensors(scheme: Scheme, stored: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Return what is written of a linear."""
    if _format(scheme) == INT:
        return stored
    codes = stored[WEIGHT]
    words = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 4)).view(torch.int32)
    shape = torch.tensor([codes.shape[0], k])
    return {"weight_packed": words[:, : -(-k * 4 // 32)].contiguous(), "weight_scale": stored["weight_scale"], "weight_shape": shape}


def _format(scheme: Scheme) -> str | None:
    if scheme.treatment.weight_ops or scheme.bits is not None:
        return None
    return INT if scheme.operand == ROWS else PACKED if scheme.operand.kind == (S4, Groups) else None


def _weights(scheme: Scheme) -> dict[str, Any]:
    common = {"type": "int", "symmetric": True, "dynamic": False}
    if scheme.operand == ROWS:
        return {"num_bits": 8, "strategy": "channel", **common}
    return {"num_bits": 4, "strategy": "group", "group_size": scheme.operand.arguments[0], **common}


class CompressedTensorsSource(Source):
    """Reads their files; raises CheckpointError for schemes beside ``ACCEPTED``."""

    def __init__(self, files: TensorFiles, config: Mapping[str, Any]) -> None:
        super().__init__(files)
        said = config.get("config_groups")
        if not isinstance(said, dict) or not all(isinstance(group, dict) for group in said.values()):
            raise CheckpointError(f"quantization_config: config_groups takes an object of objects, got {str(said)[:100]}")
        if config.get("kv_cache_scheme") is not None:
            raise CheckpointError("quantization_config: a kv_cache_scheme is not read; lowbit_compiler.Int8Cache is a cache in int8")
        self._format = config.get("format")
        self._groups = [(_names(group.get("targets"), "targets"), group) for group in said.values()]
        self._ignore = _names(config.get("ignore") or [], "ignore")

    @property
    def named(self) -> set[str]:
        """None by name: targets are patterns."""
        return set()

    def linear(self, name: str, n: int, k: int) -> Stored | None:
        """Return the linear ``name`` where the config says that it is low-bit."""
        if any(_matches(pattern, name) for pattern in self._ignore):
            return None
        group = next((group for targets, group in self._groups if any(_matches(target, name) for target in targets)), None)
        if group is None or group.get("weights") is None:
            return None
        return self._reader(name, group)(name, n, k, group["weights"])

    def _reader(self, name: str, group: Mapping[str, Any]) -> Callable[[str, int, int, Any], Stored]:
        weights, x = group["weights"], group.get("input_activations")
        form = group.get("format") or self._format
        plain = (
            isinstance(weights, dict) and weights.get("type") == "int" and weights.get("symmetric") is True and not weights.get("dynamic")
        )
        ordered = plain and weights.get("actorder") in ("group", "dynamic", True)
        static = x is not None and not (
            isinstance(x, dict) and x.get("dynamic") is True and x.get("type") == "int" and x.get("num_bits") == 8
        )
        bits, strategy = (weights.get("num_bits"), weights.get("strategy")) if plain else (None, None)
        if plain and not ordered and not static:
            if (form, bits) == (INT, 8) and strategy in ("channel", "tensor"):
                return self._rows
            if (form, bits) == (PACKED, 4) and strategy in ("group", "channel"):
                return self._packed
        raise CheckpointError(
            f"{name}: format {form!r} with weights {weights!r} and activations {'in float' if x is None else x!r} is not read; accepted: {ACCEPTED}, "
            "with activations in float, or int8 by dynamic scales"
        )

    def _rows(self, name: str, n: int, k: int, weights: Any) -> Stored:
        uses = f"{name}.weight", f"{name}.weight_scale"
        codes = exact(self.files, uses[0], (n, k), torch.int8)
        scales = exact(self.files, uses[1], (n, 1) if weights["strategy"] == "channel" else (1,), *FLOATS)
        return rows_of(codes, scales.expand(n, 1), uses)

    def _packed(self, name: str, n: int, k: int, weights: Any) -> Stored:
        group = weights.get("group_size") if weights["strategy"] == "group" else k
        scheme, repeats = groups(name, k, group)
        uses = tuple(f"{name}.{key}" for key in ("weight_packed", "weight_scale", "weight_shape"))
        words = exact(self.files, uses[0], (n, -(-k * 4 // 32)), torch.int32)
        scales = exact(self.files, uses[1], (n, -(-k // group)), *FLOATS)
        said = exact(self.files, uses[2], (2,), torch.int64, torch.int32).tolist()
        if said != [n, k]:
            raise CheckpointError(f"tensor {uses[2]!r} takes {[n, k]}, got {said}")
        codes = words.view(torch.uint8)[:, : row_bytes(k, 4)].contiguous()
        return Stored(scheme, {WEIGHT: codes, "weight_scale": scales_of(scales, scheme, k, repeats)}, uses)


def _names(said: Any, what: str) -> list[str]:
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        raise CheckpointError(f"quantization_config: {what} takes a list of names, got {str(said)[:100]}")
    return said


def _matches(target: str, name: str) -> bool:
    """Return whether a target means the linear ``name``: its class, its name or, after "re:", what its name begins with."""
    if not target.startswith("re:"):
        return target in ("Linear", name)
    try:
        return re.match(target[3:], name) is not None
    except re.error as error:
        raise CheckpointError(f"quantization_config: {target!r} is no regular expression: {error}") from error
