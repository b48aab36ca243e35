"""SmolLM2-135M off its grid on text that bench/accuracy/int4.py does not judge by, for a number of bits for each layer:

    lowbit debug widths bench/accuracy/widths.py:smollm2_off --recipe bench/accuracy/groups_of_64.toml --bytes 72.9MB --ignore lm_head \
        --out bench/results/int4_widths_g64_73MB.toml

72.9 MB are 5.49 bits of a weight. bench/accuracy/int4.py has a row of each such file. With groups of 32: --bytes 70MB, 5.27 bits.
"""

import sys
from pathlib import Path
from typing import Any

import calibration
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from helpers import smollm2_off as off

WINDOW, WINDOWS = 128, 4
"""The first shows what each of 210 layers alone does in each of five formats: a thousand runs."""


def smollm2_off() -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    """Return the model and windows, English and Python by turns."""
    loaded = off.load()
    texts = [loaded.tokenizer(written(), verbose=False)["input_ids"] for written in (calibration.python, calibration.english)]
    starts = [(texts[at % 2], at // 2 * WINDOW) for at in range(WINDOWS)]
    return loaded.model, [{"input_ids": torch.tensor([ids[start : start + WINDOW]]), "use_cache": False} for ids, start in starts]
