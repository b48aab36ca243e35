"""Files that are damaged, exchanged or made to harm: one error that says what is wrong, and nothing allocated or run for what they say."""

import json
import os
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lowbit_compiler as lowbit
from helpers.prepared import Stack, stack
from lowbit_compiler.checkpoints.formats.gguf_file import GGUFFile
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError

FIRST = "model-00001-of-00002.safetensors"
MEMORY = 1 << 28
"""Bytes that reading may take beside what there is."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "model"
    lowbit.save_pretrained(stack(2), folder, "int4", max_shard_size=25_000)
    assert sorted(path.name for path in folder.glob("*.safetensors")) == [FIRST, FIRST.replace("00001", "00002", 1)]
    return folder


def header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write another header in front of the same bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    said = json.loads(data[8 : 8 + length])
    change(said)
    text = json.dumps(said).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def said(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write another JSON file."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def flip(folder: Path) -> None:
    data = bytearray((folder / FIRST).read_bytes())
    data[-5] ^= 4
    (folder / FIRST).write_bytes(data)


def swap(folder: Path) -> None:
    other = folder / FIRST.replace("00001", "00002", 1)
    (folder / FIRST).rename(folder / "x")
    other.rename(folder / FIRST)
    (folder / "x").rename(other)


def fifo(folder: Path) -> None:
    (folder / FIRST).unlink()
    os.mkfifo(folder / FIRST)


def truncate(folder: Path, size: int) -> None:
    os.truncate(folder / FIRST, size)


def tensor(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: header(folder / FIRST, lambda found: found["first.weight"].update(fields))


def index(file: str) -> Callable[[Path], None]:
    return lambda folder: said(folder / "model.safetensors.index.json", lambda found: found["weight_map"].update({"first.weight": file}))


def scheme(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: said(folder / "config.json", lambda found: found["quantization_config"]["schemes"][0].update(fields))


def config(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: said(folder / "config.json", lambda found: found["quantization_config"].update(fields))


ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit": (flip, "are not those that were written"),
    "truncated": (lambda folder: truncate(folder, (folder / FIRST).stat().st_size - 7), "the header speaks of"),
    "truncated in the header": (lambda folder: truncate(folder, 100), "it is truncated, or no safetensors file"),
    "empty": (lambda folder: truncate(folder, 0), "a header of 0 bytes, in a file of 0"),
    "exchanged": (swap, "files of another checkpoint"),
    "a header of exabytes": (lambda folder: (folder / FIRST).write_bytes(b"\xff" * 8 + b"{}"), "a header of 18446744073709551615 bytes"),
    "a header of nonsense": (lambda folder: (folder / FIRST).write_bytes(struct.pack("<Q", 4) + b"\x80{}}"), "is no JSON"),
    "a deep header": (lambda folder: (folder / FIRST).write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000), "is no JSON"),
    "a key twice": (lambda folder: (folder / "config.json").write_text('{"a": 1, "a": 2}'), "key 'a' is there twice"),
    "a shape of petabytes": (tensor(shape=[1 << 30, 1 << 25]), "and data_offsets are"),
    "a negative size": (tensor(shape=[-1, 4]), "shape takes numbers from 0 on"),
    "a size beyond 64 bits": (tensor(shape=[10**30]), "shape takes numbers from 0 on"),
    "a size that is no number": (tensor(shape=["64", 24]), "shape takes numbers from 0 on"),
    "an unknown dtype": (tensor(dtype="F8_E4M3"), "dtype takes one of"),
    "offsets behind the end": (tensor(data_offsets=[1 << 40, (1 << 40) + 64 * 24]), "there are bytes between them"),
    "offsets of another tensor": (tensor(data_offsets=[64, 64 + 64 * 24]), "tensors overlap"),
    "offsets the wrong way": (tensor(data_offsets=[64 * 24, 0]), "and data_offsets are"),
    "a folder above": (index(f"../model/{FIRST}"), "takes the name of a .safetensors file beside it"),
    "an absolute path": (index("/etc/passwd"), "takes the name of a .safetensors file beside it"),
    "a hidden file": (index(".x.safetensors"), "takes the name of a .safetensors file beside it"),
    "a null byte": (index("x\0.safetensors"), "takes the name of a .safetensors file beside it"),
    "a file that is not there": (index("x.safetensors"), "cannot be read: No such file"),
    "a FIFO": (fifo, "is no regular file"),
    "an unknown format": (scheme(weights="pickle"), "weights takes one of s8,"),
    "a group of none": (scheme(arguments=[0]), "group of u4 takes one of (32, 64, 128), got 0"),
    "a group that is no number": (scheme(arguments=["32"]), "takes integers for group"),
    "another format": (scheme(weights="u5"), "tensor 'first.weight' takes uint8 of shape (64, 30), got uint8 of shape (64, 24)"),
    "an unknown treatment": (scheme(treatment="__class__"), "treatment takes one of none, rotation"),
    "a linear that is none": (scheme(linears=["blocks.0.norm"]), "and no nn.Linear of Stack"),
    "a linear that is nothing": (scheme(linears=["__init__"]), "and no nn.Linear of Stack"),
    "another version": (config(version=2), "version takes 1, got 2"),
    "an unknown method": (config(quant_method="torchao"), "quant_method takes one of lowbit, compressed-tensors"),
    "a recipe that is none": (config(recipe={"name": "x", "weights": "os.system"}), "recipe: recipe 'x': weights takes one of"),
    "a recipe of other fields": (config(recipe={"nam": 1}), "quantization_config: recipe"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_error(attack: str, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    change, message = ATTACKS[attack]
    change(folder)
    with torch.device("meta"):
        model = Stack(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as raised:
        lowbit.load(folder, model)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


def test_a_file_that_shrinks_while_it_is_read(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    files = TensorFiles(folder)
    os.truncate(folder / FIRST, 2000)
    last = max(files, key=lambda name: files[name].start if files[name].path.name == FIRST else 0)
    with pytest.raises(CheckpointError, match="the file ends within tensor"):
        files.read(last)


def test_nothing_of_a_folder_is_run(tmp_path: Path) -> None:
    """Neither code beside the config nor classes that are no models of transformers."""
    pytest.importorskip("transformers")
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    for architecture in ("evil.Evil", "Trainer", "pipeline", "__builtins__", "PreTrainedTokenizerFast"):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], "auto_map": {"AutoModel": "evil.Evil"}}))
        with pytest.raises(CheckpointError, match="architectures takes the name of a model class of transformers"):
            lowbit.load(tmp_path)


def gguf(*fields: bytes, tensors: int = 0, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(fields) if count is None else count) + b"".join(fields) + bytes(64)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(name: str, sizes: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


GGUFS = {
    "no GGUF file": (b"GGML" + bytes(40), "is no GGUF file of version 2 or 3"),
    "another version": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "is no GGUF file of version 2 or 3"),
    "nothing": (b"", "has 0 bytes"),
    "not as much as a header": (b"not a model file at all", "has 23 bytes: no GGUF file"),
    "tensors without end": (gguf(tensors=1 << 60), "speaks of 1152921504606846976 tensors"),
    "fields without end": (gguf(count=1 << 60), "speaks of 1152921504606846976 fields"),
    "a string of exabytes": (gguf(struct.pack("<Q", 1 << 62)), "a string of 4611686018427387904 bytes"),
    "an array of exabytes": (gguf(text("a") + struct.pack("<IIQ", 9, 4, 1 << 61)), "an array of 2305843009213693952 values"),
    "arrays in arrays": (gguf(text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20), "a field is of type 9"),
    "an unknown type": (gguf(text("a") + struct.pack("<I", 99)), "a field is of type 99"),
    "an alignment of none": (gguf(text("general.alignment") + struct.pack("<II", 4, 0)), "general.alignment takes a number from 1 on"),
    "many dimensions": (gguf(entry("a", (1,) * 9, 0, 0), count=0, tensors=1), "has 9 dimensions"),
    "a tensor of exabytes": (gguf(entry("a", (1 << 40, 1 << 40), 0, 0), count=0, tensors=1), "the file is truncated"),
    "a tensor behind the end": (gguf(entry("a", (4,), 0, 1 << 50), count=0, tensors=1), "the file is truncated"),
    "a type that is not read": (
        gguf(entry("a.weight", (32,), 7, 0), count=0, tensors=1),
        "tensor 'a.weight' is of ggml type 7, which is not read; accepted: Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K, F32",
    ),
    "a row of half a block": (gguf(entry("a", (33,), 2, 0), count=0, tensors=1), "rows of no whole blocks of 32"),
}


@pytest.mark.parametrize("attack", GGUFS)
def test_one_error_of_gguf(attack: str, tmp_path: Path) -> None:
    data, message = GGUFS[attack]
    (tmp_path / "a.gguf").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as raised:
        GGUFFile(tmp_path / "a.gguf")
    assert message in str(raised.value)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


def test_an_architecture_that_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf(text("general.architecture") + struct.pack("<I", 8) + text("rwkv")))
    with pytest.raises(CheckpointError, match=r"general.architecture 'rwkv' is not read; accepted: llama, qwen2, qwen3"):
        lowbit.load(tmp_path / "a.gguf", nn.Linear(1, 1))
