"""The methods there are, in the order in which they are applied."""

from collections.abc import Iterable

from lowbit_compiler.errors import OptionError
from lowbit_compiler.preparing.awq import AWQ
from lowbit_compiler.preparing.bias_correction import BiasCorrection
from lowbit_compiler.preparing.flexround import FlexRound
from lowbit_compiler.preparing.gptq import GPTQ
from lowbit_compiler.preparing.learned_scales import LearnedScales
from lowbit_compiler.preparing.method import Method
from lowbit_compiler.preparing.outlier_tune import OutlierTune
from lowbit_compiler.recipes import Recipe

METHODS: tuple[Method, ...] = (OutlierTune(), AWQ(), GPTQ(), FlexRound(), LearnedScales(), BiasCorrection())
NAMES = tuple(method.name for method in METHODS)
DEFAULT = ("gptq",)


def find_methods(wanted: Iterable[str | Method], recipe: Recipe) -> list[Method]:
    """Return the methods of these names (or the objects themselves) in the order of METHODS; raises OptionError for what does not fit."""
    accepted = f"methods takes names of {NAMES}, each once, got {wanted!r}"
    if isinstance(wanted, (str, Method)) or not isinstance(wanted, Iterable):
        raise OptionError(accepted)
    wanted = list(wanted)
    found = [next((method for method in METHODS if method.name == each), each) for each in wanted]
    if not all(isinstance(method, Method) for method in found) or len({method.name for method in found}) < len(found):  # type: ignore[union-attr]
        raise OptionError(accepted)
    chosen = sorted((method for method in found if isinstance(method, Method)), key=lambda method: NAMES.index(method.name))
    if len(rounding := [method.name for method in chosen if method.rounds]) > 1:
        raise OptionError(f"methods takes one of those that choose codes, got {', '.join(rounding)}")
    for method in chosen:
        method.check(recipe)
    return chosen
