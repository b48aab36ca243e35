"""Bad options and environment variables: one error before anything is compiled, with what was got and what is accepted."""

from typing import Any

import pytest
import torch

import lowbit_compiler
from helpers.block import block
from helpers.compiled import compiled, reports_of
from lowbit_compiler.errors import OptionError

BAD_OPTIONS = [
    ({"recepie": "int8"}, r"unknown option 'recepie' \(did you mean 'recipe'\?\); accepted: recipe, "),
    ({"recipe": "int1"}, r"unknown recipe 'int1'; accepted: int8, llm-int8, "),
    ({"recipe": 8}, r"recipe takes the name of a recipe, FILE.toml or a Recipe, got 8"),
    (
        {"recipe": "int8", "llm_int8_threshold": 5.0},
        r"'llm_int8_threshold' needs a recipe that has a threshold \(llm-int8\), got 'int8'",
    ),
    ({"recipe": "llm-int8", "llm_int8_threshold": "six"}, r"'llm_int8_threshold' takes a finite number above 0, got 'six'"),
    ({"recipe": "llm-int8", "llm_int8_threshold": -1.0}, r"'llm_int8_threshold' takes a finite number above 0, got -1.0"),
    (
        {"recipe": "int8", "group_size": 64},
        r"'group_size' needs a recipe that has a group_size \(int4, .*\), got 'int8'",
    ),
    ({"recipe": "int4-weight-only", "group_size": 48}, r"'group_size' takes one of \(32, 64, 128\), got 48"),
    ({"recipe": "int4-weight-only", "group_size": 64.0}, r"'group_size' takes one of \(32, 64, 128\), got 64.0"),
    ({"ignore": 3}, r"'ignore' takes a string or a list of strings, got 3"),
    ({"ignore": ["re:("]}, r"'re:\(' is not a valid regular expression"),
    ({"ignore": "upp"}, r"ignore 'upp' matches no module or parameter of the model \(\d+ names\); close: up"),
    ({"modules_to_not_convert": ["up", "nothing.like"]}, r"ignore 'nothing.like' matches no module or parameter"),
    ({"weights": "frosty"}, r"'weights' takes 'checked' or 'frozen', got 'frosty'"),
    ({"modules": None}, r"'modules' takes 'checked' or 'frozen', got None"),
    ({"free_weights": "yes"}, r"'free_weights' takes True or False, got 'yes'"),
    ({"remainder": "tvm"}, r"'remainder' takes 'inductor' or 'eager' or 'tensorrt', got 'tvm'"),
    ({"remainder": "tensorrt"}, r"'tensorrt' cannot be used here \(.*\); accepted: 'inductor' or 'eager'"),
    ({"plan": "never"}, r"'plan' takes 'measured', 'always' or FILE.json of 'lowbit plan', got 'never'"),
    ({"dump": "/proc/nowhere"}, r"option 'dump': cannot write to '/proc/nowhere'"),
    ({"dump": __file__}, r"option 'dump': cannot write to"),
    ({"dump": 1}, r"option 'dump' takes a folder, got 1"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=[str(options) for options, _ in BAD_OPTIONS])
def test_bad_option(plain_environment: pytest.MonkeyPatch, options: dict[str, Any], message: str) -> None:
    model, x = block()

    def run() -> None:
        with torch.no_grad(), pytest.raises(Exception, match=message) as raised:
            compiled(model, **options)(x)
        assert "OptionError" in str(raised.value) or raised.type.__name__ == "OptionError"

    _, reports = reports_of(run)
    assert not reports
    with pytest.raises(OptionError, match=message):
        lowbit_compiler.explain(model.requires_grad_(False), x, **options)


def test_bad_mode() -> None:
    model, x = block()
    with torch.no_grad(), pytest.raises(Exception, match=r"OptionError: mode takes one of default, .*, got 'fast'"):
        torch.compile(model, backend="lowbit", mode="fast")(x)


BAD_ENVIRONMENT = [
    ("LOWBIT_DISABEL", "merge", r"unknown environment variable LOWBIT_DISABEL; accepted: LOWBIT_DUMP, "),
    ("LOWBIT_DISABLE", "merge,murge", r"LOWBIT_DISABLE: unknown pass 'murge'; accepted: normalize, "),
    ("LOWBIT_STOP_AFTER", "later", r"LOWBIT_STOP_AFTER: unknown pass 'later'; accepted: normalize, "),
    ("LOWBIT_STOP_AFTER", ",", r"LOWBIT_STOP_AFTER: unknown pass ','; accepted: normalize, "),
    ("LOWBIT_MAX_REWRITES", "-3", r"LOWBIT_MAX_REWRITES takes a number >= 0, got '-3'"),
    ("LOWBIT_VERIFY", "yes", r"LOWBIT_VERIFY takes 'each', got 'yes'"),
    ("LOWBIT_DUMP", "/proc/nowhere", r"LOWBIT_DUMP: cannot write to '/proc/nowhere'"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_ENVIRONMENT, ids=[f"{name}={value}" for name, value, _ in BAD_ENVIRONMENT])
def test_bad_environment(plain_environment: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    plain_environment.setenv(name, value)
    model, x = block()
    with torch.no_grad(), pytest.raises(Exception, match=message):
        compiled(model)(x)
