"""The order holds together: every requirement is established before, and names are unique."""

from lowbit_compiler.passes.contract import Fact
from lowbit_compiler.passes.pipeline import PASS_NAMES, runtime_exit, waist


def test_requirements_are_established_in_order() -> None:
    holding: set[Fact] = set()
    for p in waist() + runtime_exit():
        assert p.requires <= holding, p.name
        holding = (holding - p.destroys) | p.establishes
    assert Fact.PACKED in holding


def test_the_waist_is_the_qdq_form() -> None:
    holding: set[Fact] = set()
    for p in waist():
        holding = (holding - p.destroys) | p.establishes
    assert {Fact.QUANTIZED, Fact.FOLDED} <= holding


def test_names_are_unique_and_docstrings_show_both_graphs() -> None:
    assert len(set(PASS_NAMES)) == len(PASS_NAMES)
    for p in waist() + runtime_exit():
        text = type(p).__doc__ or ""
        assert "Before" in text, p.name
        assert "After" in text or "Before and after" in text, p.name
