"""Recipes in files: written and read back equal; a file that is none is one error, which names the file and the key."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit_compiler.errors import OptionError
from lowbit_compiler.options import parse
from lowbit_compiler.recipes import RECIPES, Recipe, find_recipe, recipe_file

SITES = (("layers.0", "int6"), ("re:mlp\\.(up|down)_proj$", "int3"), ('odd "name"\n\t\\', "int4-nested"), ("schräg.\x7f", "int8"))
MIXED = Recipe("mixed", weights="int4", activations="float", group_size=32, head="weight-only", sites=SITES)


@pytest.mark.parametrize("recipe", [*RECIPES.values(), MIXED, replace(RECIPES["llm-int8"], threshold=3e-7)], ids=lambda recipe: recipe.name)
def test_read_back_equal(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "any.toml"
    file.write_text(recipe_file.text(recipe), encoding="utf-8")
    assert recipe_file.read(file) == recipe
    assert list(recipe_file.read(file).sites) == list(recipe.sites)
    for given_as in (file, str(file)):
        assert parse({"recipe": given_as}).recipe == recipe


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=5))
def test_any_pattern(tmp_path_factory: pytest.TempPathFactory, patterns: list[str]) -> None:
    recipe = replace(MIXED, sites=tuple((pattern.removeprefix("re:") or "x", "int5") for pattern in dict.fromkeys(patterns)))
    file = tmp_path_factory.mktemp("recipes") / "any.toml"
    file.write_bytes(recipe_file.text(recipe).encode())
    assert recipe_file.read(file) == recipe


def test_a_name_is_the_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('weights = "int4"\nactivations = "float"\n')
    assert recipe_file.read(file) == Recipe("mine", weights="int4", activations="float")
    file.write_text("")
    assert recipe_file.read(file) == Recipe("mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weights = ", "is no TOML: "),
        ("\xff", "is no TOML: "),
        ('wieghts = "int4"', "unknown key 'wieghts'; accepted: name, weights, activations, "),
        ("name = 3", "a recipe's name is a string, got 3"),
        ("group_size = 48", r"group_size takes one of \(32, 64, 128\), got 48"),
        ('weights = "int9"', "weights takes one of .*, got 'int9'"),
        ("sites = 3", "sites takes a table of patterns and words for weights, got 3"),
        ('[sites]\n"layers.0" = 4', r"sites takes pairs of a pattern and a word for weights, got \('layers.0', 4\)"),
        ('[sites]\n"a" = "int8"\n"a" = "int8"', "is no TOML: "),
        ('activations = "float"\n[sites]\n"a" = "int9"', "recipe 'bad at a': weights takes one of .*, got 'int9'"),
        ('[sites]\n"a" = "int4"', "recipe 'bad at a': int4 weights need activations='float', got 'int8'"),
        ('activations = "float"\n[sites]\n"re:(" = "int4"', "valid regular expressions after 're:', got 're:\\('"),
    ],
)
def test_no_recipe(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(OptionError, match=message) as raised:
        find_recipe(str(file))
    assert str(raised.value).startswith(f"recipe file {str(file)!r}")


@pytest.mark.parametrize("name", ["missing.toml", ".", "a\0b.toml"])
def test_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="recipe file "):
        find_recipe(tmp_path / name)


def test_sites_given_otherwise() -> None:
    assert replace(MIXED, sites={"a": "int8"}) == replace(MIXED, sites=[["a", "int8"]]) == replace(MIXED, sites=(("a", "int8"),))
    for wrong in ("a", 3, [("a", "int8"), ("a", "int4")], [("a",)], [("", "int8")]):
        with pytest.raises(OptionError, match=r"recipe 'mixed': sites takes .*got "):
            replace(MIXED, sites=wrong)
