"""What the ops of number formats ask of their arguments."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import KINDS, SHARED, Format, Operand, Scale
from lowbit_compiler.runtime.formats.operand import argument_names, op_name
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.reference.dense import row_bytes
from lowbit_compiler.runtime.reference.panels import operand_of
from lowbit_compiler.runtime.require import FLOAT, FLOATS, codes_of, require, result_dtype, same, tensors


def block_size(op: str, scale: type[Scale], arguments: dict[str, Any]) -> None:
    """Check the size of a block among ``arguments``, where the scale has one."""
    if scale.sizes:
        name = argument_names(scale.schema)[-1]
        require(op, arguments[name] in scale.sizes, f"{name} in {scale.sizes}", arguments[name])


def _operand(op: str, format: type[Format], scale: type[Scale], arguments: dict[str, Any]) -> Operand:
    """Return the operand that an op with these arguments (by name) is of."""
    block_size(op, scale, arguments)
    try:
        return Operand.of(format, scale, arguments)
    except ValueError as error:
        raise RuntimeError(f"lowbit::{op}: {error}") from None


def _quantize(op: str, format: type[Format], scale: type[Scale]) -> Callable[..., None]:
    name = format.tensor()

    def check(**arguments: Any) -> None:
        x = arguments[name]
        tensors(op, **{name: x})
        require(op, x.dtype in FLOATS, f"{name} in {FLOAT}", x.dtype)
        if format.activations:
            require(op, x.dim() >= 1, f"{name} with at least one dimension", f"{x.dim()} dimensions")
        else:
            require(op, x.dim() == 2, f"{name} of shape [N, K]", f"{x.dim()} dimensions")
        require(op, x.shape[-1] >= 1, "K of at least 1", x.shape[-1])
        _operand(op, format, scale, arguments)

    return check


def _parts(op: str, operand: Operand, arguments: dict[str, Any], flat: bool = False) -> None:
    """Check codes and scales; ``flat``: a scale for each row may be [N] as well as [N, 1]."""
    first, *others = operand.parts
    q = arguments[first.name]
    for part in others:
        shape = part.shape(q.shape, operand.scale.count(q.shape[-1]))
        tensor, dtype = arguments[part.name], str(part.dtype).removeprefix("torch.")
        shapes = (shape, shape[:-1])[::-1] if flat and not operand.scale.sizes else (shape,)
        fits = tensor.dtype is part.dtype and any(same(tensor, each) for each in shapes)
        require(op, fits, f"{part.name} in {dtype} of shape {' or '.join(map(str, shapes))}", f"{tensor.dtype} of {tuple(tensor.shape)}")


def _stored(op: str, format: type[Format], scale: type[Scale], packing: bool) -> Callable[..., None]:
    def check(**arguments: Any) -> None:
        tensors(op, **{name: tensor for name, tensor in arguments.items() if isinstance(tensor, Tensor)})
        operand = _operand(op, format, scale, arguments)
        codes_of(op, arguments["q"], operand.parts[0].dtype, packing or not format.activations)
        _parts(op, operand, arguments, flat=packing)
        if not packing:
            result_dtype(op, arguments["dtype"])

    return check


NUMBERS_OR_CODES = (torch.float32, torch.int8, torch.int16, torch.uint8)


def _numbers_or_codes(op: str, name: str, tensor: Tensor) -> None:
    tensors(op, **{name: tensor})
    require(op, tensor.dtype in NUMBERS_OR_CODES, f"{name} in float32, int8, int16 or uint8", tensor.dtype)


def _padded_blocks(x: Tensor, block: int) -> None:
    _numbers_or_codes("padded_blocks", "x", x)
    require("padded_blocks", x.dim() >= 1, "x with at least one dimension", f"{x.dim()} dimensions")
    require("padded_blocks", block >= 1, "block of at least 1", block)


def _joined_blocks(blocks: Tensor, k: int) -> None:
    _numbers_or_codes("joined_blocks", "blocks", blocks)
    require("joined_blocks", blocks.dim() >= 2, "blocks with at least 2 dimensions", f"{blocks.dim()} dimensions")
    most = blocks.shape[-2] * blocks.shape[-1]
    require("joined_blocks", 0 <= k <= most, f"k from 0 to {most}", k)


def _unpack_codes(packed: Tensor, bits: int, signed: bool, k: int) -> None:
    tensors("unpack_codes", packed=packed)
    require("unpack_codes", packed.dtype is torch.uint8 and packed.dim() == 2, "packed in uint8 of shape [N, bytes]", packed.dtype)
    require("unpack_codes", 1 <= bits <= 7, "bits from 1 to 7", bits)
    require("unpack_codes", k >= 0 and packed.shape[1] == row_bytes(k, bits), f"rows of {row_bytes(k, bits)} bytes", packed.shape[1])


def _unpack(packed: Tensor, format: str, arguments: Sequence[int], n: int, k: int, rows: int) -> None:
    op = "unpack"
    tensors(op, packed=packed)
    require(
        op,
        packed.dtype is torch.int8 and packed.dim() == 2,
        "packed as int8 [panels, bytes]",
        f"{packed.dtype} of {packed.dim()} dimensions",
    )
    try:
        operand = operand_of(format, arguments)
    except ValueError as error:
        raise RuntimeError(f"lowbit::{op}: {error}") from None
    require(op, k >= 1 and rows >= 1 and n >= 0, "k and rows of at least 1, and n of at least 0", (n, k, rows))
    panels = -(-n // rows) * -(-rows // PANEL)
    require(op, packed.shape[0] == panels, f"{panels} panels of n = {n} in {rows} rows each", packed.shape[0])
    require(op, packed.shape[1] == operand.panel_bytes(k), f"panels of {operand.panel_bytes(k)} bytes for k = {k}", packed.shape[1])


def _product_f32(x: Tensor, w: Tensor, bias: Tensor | None) -> None:
    tensors("product_f32", x=x, w=w, bias=bias)
    for name, tensor in {"x": x, "w": w, "bias": bias}.items():
        require("product_f32", tensor is None or tensor.dtype is torch.float32, f"{name} in float32", tensor is not None and tensor.dtype)
    require("product_f32", x.dim() >= 1, "x with at least one dimension", f"{x.dim()} dimensions")
    require("product_f32", w.dim() == 2 and w.shape[1] == x.shape[-1], f"w of shape (N, {x.shape[-1]})", tuple(w.shape))
    require(
        "product_f32", bias is None or same(bias, (w.shape[0],)), f"bias of shape ({w.shape[0]},)", bias is not None and tuple(bias.shape)
    )


def format_checks() -> dict[str, Callable[..., None]]:
    """Return the check of each op that quantizes, dequantizes or packs."""
    checks: dict[str, Callable[..., None]] = {
        "padded_blocks": _padded_blocks,
        "joined_blocks": _joined_blocks,
        "unpack_codes": _unpack_codes,
        "unpack": _unpack,
        "product_f32": _product_f32,
    }
    for format, scale in (*KINDS, *SHARED):
        quantize, dequantize, pack = (op_name(verb, format, scale) for verb in ("quantize", "dequantize", "pack"))
        checks[quantize] = _quantize(quantize, format, scale)
        checks[dequantize] = _stored(dequantize, format, scale, packing=False)
        if format.panels is not None:
            checks[pack] = _stored(pack, format, scale, packing=True)
    return checks
