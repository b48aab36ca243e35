"""Each option and each field of a recipe: what is accepted comes out in one type, everything else is one clear error."""

import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lowbit_compiler.errors import OptionError
from lowbit_compiler.options import CHECKS, DESCRIPTIONS, parse, writable_file
from lowbit_compiler.recipes import RECIPES, Recipe

COLUMNS, INT4 = RECIPES["llm-int8"], RECIPES["int4-weight-only"]
NO_NUMBERS = [True, "6", None, [6.0], float("nan"), float("inf"), -6.0, 0, 0.0, 10**400, np.float32("nan"), 6j, torch.tensor(6.0)]
NO_SIZES = [64.0, True, "64", None, 48, -64, 0, 10**400, np.float64(64), float("nan"), [64], np.array([64, 64]), torch.tensor(64)]
NO_WORDS = [1, True, None, ["none"], {}, "None", b"none", np.array(["none", "none"])]


def refuses(make: Callable[[], object], words: str) -> None:
    with pytest.raises(OptionError, match=words) as error:
        make()
    assert "got " in str(error.value)


def test_every_option_is_described_and_checked() -> None:
    assert list(DESCRIPTIONS) == list(CHECKS)


def test_scales_that_processes_cannot_share() -> None:
    words = r"'tp_scales': 'shared' needs a recipe with int8 codes of whole rows on both sides \(int8, int8-vector\), got 'llm-int8'"
    refuses(lambda: parse({"recipe": "llm-int8", "tp_scales": "shared"}), words)
    refuses(lambda: parse({"tp_scales": "global"}), "option 'tp_scales' takes 'local' or 'shared'")
    assert parse({"recipe": "int8", "tp_scales": "shared"}).tp_scales == "shared"


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_no_threshold(value: Any) -> None:
    words = "takes a finite number above 0"
    refuses(lambda: parse({"recipe": "llm-int8", "llm_int8_threshold": value}), f"option 'llm_int8_threshold' {words}")
    refuses(lambda: replace(COLUMNS, threshold=value), f"recipe 'llm-int8': threshold {words}")


@pytest.mark.parametrize("value", NO_SIZES, ids=repr)
def test_no_group_size(value: Any) -> None:
    words = r"takes one of \(32, 64, 128\)"
    refuses(lambda: parse({"recipe": "int4-weight-only", "group_size": value}), f"option 'group_size' {words}")
    refuses(lambda: replace(INT4, group_size=value), f"recipe 'int4-weight-only': group_size {words}")


@pytest.mark.parametrize("field", ["weights", "activations", "treatment", "head"])
@pytest.mark.parametrize("value", NO_WORDS, ids=repr)
def test_no_word_of_a_recipe(field: str, value: Any) -> None:
    refuses(lambda: Recipe("mine", **{field: value}), f"recipe 'mine': {field} takes one of ")


def test_recipes_that_do_not_fit_together() -> None:
    refuses(lambda: Recipe(3), "a recipe's name is a string")  # type: ignore[arg-type]
    refuses(
        lambda: Recipe("mine", weights="ternary", treatment="rotation"), "with int8 activations take treatment='none' alone, got 'rotation'"
    )
    refuses(lambda: Recipe("mine", weights="int4"), "int4 weights need activations='float'")
    refuses(lambda: Recipe("mine", activations="float", treatment="rows"), "float activations need no exact elements")


def test_numbers_come_out_in_one_type() -> None:
    for size in (32, np.int64(32), np.uint8(32)):
        for recipe in (parse({"recipe": INT4, "group_size": size}).recipe, replace(INT4, group_size=size)):
            assert type(recipe.group_size) is int
            assert recipe.group_size == 32
    for number in (3, 3.0, np.float16(3), np.int32(3), Fraction(3)):
        for recipe in (parse({"recipe": COLUMNS, "llm_int8_threshold": number}).recipe, replace(COLUMNS, threshold=number)):
            assert type(recipe.threshold) is float
            assert recipe.threshold == 3.0


@pytest.mark.parametrize("name", ["remainder", "plan", "free_weights", "ignore", "dump", "recipe"])
@pytest.mark.parametrize(
    "value", [1, 1.5, b"eager", ["eager", 1], {"eager": 1}, np.array([True, False]), object()], ids=lambda x: type(x).__name__
)
def test_wrong_types(name: str, value: Any) -> None:
    refuses(lambda: parse({name: value}), "takes")


def test_wrong_dictionaries() -> None:
    for key in (3, None, ("recipe",), b"recipe"):
        refuses_unknown = pytest.raises(OptionError, match=r"unknown option .*; accepted: recipe, ")
        with refuses_unknown:
            parse({key: "int8"})  # type: ignore[dict-item]
    for given in ([("recipe", "int8")], "recipe", 3):
        refuses(lambda given=given: parse(given), "options takes a dictionary")
    for mode in (3, ["default"], b"default"):
        refuses(lambda mode=mode: parse({}, mode), "mode takes one of ")


def test_folders(tmp_path: Path) -> None:
    refuses(lambda: parse({"dump": ""}), "option 'dump' takes a folder")
    with pytest.raises(OptionError, match="option 'dump': cannot write to"):
        parse({"dump": "a\0b"})
    assert parse({"dump": tmp_path}).dump == str(tmp_path)
    refuses(lambda: parse({}, env={"LOWBIT_MAX_REWRITES": "9" * 5000}), "LOWBIT_MAX_REWRITES takes a number")


def test_files(tmp_path: Path) -> None:
    """Where a result goes is checked before the work starts."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    for name in ("fifo", ".", "missing/file", "file/file", "a\0b"):
        with pytest.raises(OptionError, match="--out: cannot write "):
            writable_file("--out", tmp_path / name)
    with pytest.raises(OptionError, match="--out: cannot write "):
        writable_file("--out", tmp_path / "file" / "new" / "file", parents=True)
    assert writable_file("--out", tmp_path / "new" / "file", parents=True) == tmp_path.resolve() / "new" / "file"
    assert not (tmp_path / "new").exists()
    for name in ("file", "new"):
        assert writable_file("--out", tmp_path / name) == (tmp_path / name).resolve()
    with pytest.raises(OptionError, match="--out takes a file, got 3"):
        writable_file("--out", 3)  # type: ignore[arg-type]
