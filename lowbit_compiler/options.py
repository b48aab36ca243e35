"""Options of ``torch.compile(..., backend="lowbit", options={...})`` and the ``LOWBIT_*`` environment, as one table."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lowbit_compiler.errors import OptionError
from lowbit_compiler.passes.pipeline import PASS_NAMES
from lowbit_compiler.recipes import DEFAULT, RECIPES, Recipe, find_recipe, finite_positive, group_size, pattern_error, require_shared
from lowbit_compiler.recipes.training import TrainingRecipe, find_training
from lowbit_compiler.runtime.files import replaceable
from lowbit_compiler.runtime.timings_file import Timings, read

ENVIRONMENT: dict[str, str] = {
    "LOWBIT_DUMP": "folder: write every stage of the rewriting there, with an HTML page (same as options={'dump': folder})",
    "LOWBIT_DISABLE": f"pass,pass: skip these passes; names: {', '.join(PASS_NAMES)}",
    "LOWBIT_STOP_AFTER": "pass: run no pass after this one; the graph still runs",
    "LOWBIT_MAX_REWRITES": "number: rewrite at most that many sites (to bisect)",
    "LOWBIT_VERIFY": "each: run the graph before and after each pass up to fold on the real inputs and compare; failures raise",
    "LOWBIT_ISA": "scalar, avx2, vnni, bf16, amx or neon: the highest instruction set that kernels may use",
    "LOWBIT_NATIVE": "0: do not load the native library; everything runs in plain torch, slowly",
    "LOWBIT_LIBRARY": "file: the native library to load instead of the installed one",
    "LOWBIT_CUDA_LIBRARY": "file: the CUDA library to load instead of the installed one, also on a torch without CUDA",
    "LOWBIT_CPU": "0, when lowbit is installed: do not build the native library; everything runs in plain torch, slowly",
    "LOWBIT_CUDA": "1 or 0, when lowbit is installed: build the CUDA library whatever torch is there, or do not",
}


@dataclass(frozen=True)
class Options:
    """What one compilation was asked for; ``parse`` builds it from a user's dictionary and the environment."""

    recipe: Recipe = field(default_factory=lambda: find_recipe(DEFAULT))
    training: TrainingRecipe | None = None
    """How graphs that need gradients are compiled; None: in float."""
    ignore: tuple[str, ...] = ()
    free_weights: bool = False
    weights: str = "checked"
    modules: str = "checked"
    remainder: str = "inductor"
    dump: str | None = None
    mode: str | None = None
    plan: str | Timings = "measured"
    """A word, or what a plan file holds."""
    disable: frozenset[str] = frozenset()
    stop_after: str | None = None
    max_rewrites: int | None = None
    verify: bool = False
    buffers: str = "float"
    tp_scales: str = "local"


DESCRIPTIONS: dict[str, str] = {
    "recipe": f"name of a recipe, FILE.toml, or a Recipe; default {DEFAULT!r}",
    "llm_int8_threshold": "outlier threshold of the treatment 'columns'; default 6.0",
    "group_size": "elements along K that share a scale, of formats with groups: 32, 64 or 128; default 64",
    "ignore": "names or 're:' patterns of modules or parameters to leave in float, added to the recipe's own",
    "llm_int8_skip_modules": "the same, under the name that transformers uses",
    "modules_to_not_convert": "the same, under another name that transformers uses",
    "free_weights": "release the float storage of every fully replaced parameter; default False",
    "buffers": "'float' (default) or 'quantized': products with a constant that is no nn.Parameter (filter banks, Fourier matrices, frozen weights)",
    "tp_scales": "'local' (default) or 'shared': of a product whose weight is split by columns over processes, each has scales of its own, or all have "
    "those of one device, and its bits",
    "weights": "'checked' (default): every call looks whether a weight was written to; 'frozen': none does",
    "modules": "'checked' (default): Dynamo looks into the modules before every call; 'frozen': only which ones they are",
    "remainder": "'inductor' (default), 'eager', or 'tensorrt' (torch_tensorrt, on CUDA): what runs the rest of the graph",
    "plan": "'measured' (default): a product, softmax or attention is rewritten where that is faster here; 'always': wherever there is a kernel; "
    "FILE.json of 'lowbit plan': where that is faster by the times in it",
    "dump": "folder to write every stage of the rewriting to, with an HTML page",
}
CHOICES = {
    "buffers": ("float", "quantized"),
    "tp_scales": ("local", "shared"),
    "weights": ("checked", "frozen"),
    "modules": ("checked", "frozen"),
    "remainder": ("inductor", "eager", "tensorrt"),
    "plan": ("measured", "always"),
}  # the first is the default
PLAN_FILE = ".json"  # ends the name of a plan file
MAX_DIGITS = 18  # of a number in the environment
RECIPE_FIELDS = {"llm_int8_threshold": "threshold", "group_size": "group_size"}
"""Options that change a field of the recipe."""
IGNORE_NAMES = ("ignore", "llm_int8_skip_modules", "modules_to_not_convert")
EXPORTED = (*RECIPE_FIELDS, *IGNORE_NAMES, "buffers", "dump")
"""Options that say something about every export too."""


def _recipe(name: str, value: Any) -> Recipe | TrainingRecipe:
    return find_training(value) or find_recipe(value)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple, set, frozenset)) or not all(isinstance(item, str) for item in items):
        raise OptionError(f"option {name!r} takes a string or a list of strings, got {value!r}")
    for item in items:
        if error := pattern_error(item):
            raise OptionError(f"option {name!r}: {item!r} is not a valid regular expression: {error}")
    return tuple(items)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"option {name!r} takes True or False, got {value!r}")
    return value


def _choice(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in CHOICES[name]:
        raise OptionError(f"option {name!r} takes {' or '.join(map(repr, CHOICES[name]))}, got {value!r}")
    return value


def _remainder(name: str, value: Any) -> str:
    if (kind := _choice(name, value)) == "tensorrt":
        from lowbit_compiler.torch_internals.torch_tensorrt import unusable  # the command line's help must not pay for torch

        if reason := unusable():
            raise OptionError(f"option {name!r}: 'tensorrt' cannot be used here ({reason}); accepted: 'inductor' or 'eager'")
    return kind


def _plan(name: str, value: Any) -> str | Timings:
    if isinstance(value, (str, Path)) and str(value).endswith(PLAN_FILE):
        try:
            return read(Path(value))
        except (OSError, ValueError) as error:
            raise OptionError(f"option {name!r}: cannot use {str(value)!r} ({error}); give a file that 'lowbit plan' wrote") from error
    if not isinstance(value, str) or value not in CHOICES[name]:
        raise OptionError(f"option {name!r} takes {', '.join(map(repr, CHOICES[name]))} or FILE{PLAN_FILE} of 'lowbit plan', got {value!r}")
    return value


def _folder(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        raise OptionError(f"option {name!r} takes a folder, got {value!r}")
    return writable(f"option {name!r}", str(value))


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "recipe": _recipe,
    "llm_int8_threshold": lambda name, value: finite_positive(f"option {name!r}", value),
    "group_size": lambda name, value: group_size(f"option {name!r}", value),
    **dict.fromkeys(IGNORE_NAMES, _strings),
    "free_weights": _flag,
    **dict.fromkeys(CHOICES, _choice),
    "remainder": _remainder,
    "plan": _plan,
    "dump": _folder,
}
"""What each option accepts: takes name and value, returns the value as it is used; raises OptionError."""


def writable(name: str, folder: str) -> str:
    """Return ``folder``; raises OptionError where it can neither be written to nor made."""
    path = Path(folder).absolute()
    try:
        made = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        accessible = os.access(path, os.W_OK)
        with contextlib.suppress(OSError):  # another process may be writing there already
            for each in made:  # nothing is left behind where nothing is written
                each.rmdir()
    except (OSError, ValueError):  # the second: a name with a null byte
        accessible = False
    if not accessible:
        raise OptionError(f"{name}: cannot write to {folder!r}; give a folder that exists or can be made")
    return folder


def writable_file(name: str, path: str | os.PathLike[str], parents: bool = False) -> Path:
    """Return the file that a write to ``path`` makes or replaces; raises OptionError where it can be none.

    ``parents``: the folders above it will be made where there are none.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(f"{name} takes a file, got {path!r}")
    try:
        target = replaceable(Path(path))
    except (OSError, ValueError) as error:
        raise OptionError(f"{name}: cannot write {str(path)!r}: {error}") from error
    if parents:
        writable(name, str(target.parent))
    elif not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise OptionError(f"{name}: cannot write {str(path)!r}: {str(target.parent)!r} is no folder that can be written to")
    return target


def _passes(name: str, text: str) -> frozenset[str]:
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(names - set(PASS_NAMES))
    if unknown:
        raise OptionError(f"{name}: unknown pass {unknown[0]!r}; accepted: {', '.join(PASS_NAMES)}")
    return names


def _environment(options: Options, env: Mapping[str, str]) -> Options:
    for name in env:
        if name.startswith("LOWBIT_") and name not in ENVIRONMENT:
            raise OptionError(f"unknown environment variable {name}; accepted: {', '.join(ENVIRONMENT)}")
    if text := env.get("LOWBIT_DUMP"):
        options = replace(options, dump=writable("LOWBIT_DUMP", text))
    if text := env.get("LOWBIT_DISABLE"):
        options = replace(options, disable=_passes("LOWBIT_DISABLE", text))
    if text := env.get("LOWBIT_STOP_AFTER"):
        if text not in PASS_NAMES:
            raise OptionError(f"LOWBIT_STOP_AFTER: unknown pass {text!r}; accepted: {', '.join(PASS_NAMES)}")
        options = replace(options, stop_after=text)
    if text := env.get("LOWBIT_MAX_REWRITES"):
        if not text.isdecimal() or len(text) > MAX_DIGITS:
            raise OptionError(f"LOWBIT_MAX_REWRITES takes a number >= 0, got {text!r}")
        options = replace(options, max_rewrites=int(text))
    if text := env.get("LOWBIT_VERIFY"):
        if text != "each":
            raise OptionError(f"LOWBIT_VERIFY takes 'each', got {text!r}")
        options = replace(options, verify=True)
    return options


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as they are used; raises OptionError for an unknown one and for a value that is not accepted."""
    if not isinstance(given, Mapping):
        raise OptionError(f"options takes a dictionary, got {given!r}")
    for name in given:
        if name not in CHECKS:
            near = get_close_matches(str(name), CHECKS, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise OptionError(f"unknown option {name!r}{hint}; accepted: {', '.join(CHECKS)}")
    return {name: CHECKS[name](name, value) for name, value in given.items()}


def _adjusted(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return ``recipe`` with the options that change it; raises OptionError where it has no use for one."""
    for option, name in RECIPE_FIELDS.items():
        if option in values:
            if not recipe.uses(name):
                users = [each.name for each in RECIPES.values() if each.uses(name)]
                raise OptionError(f"option {option!r} needs a recipe that has a {name} ({', '.join(users)}), got {recipe.name!r}")
            recipe = replace(recipe, **{name: values[option]})
    return recipe


def _require_live_weights(training: TrainingRecipe, values: Mapping[str, Any]) -> None:
    """Raise OptionError for options that take the weights for settled: training changes them."""
    for name, settled in {"free_weights": True, "weights": "frozen"}.items():
        if values.get(name) == settled:
            raise OptionError(f"option {name!r}: recipe {training.name!r} trains, and its weights change; got {settled!r}")


def _require_mode(mode: Any) -> None:
    from lowbit_compiler.torch_internals.inductor import modes  # the command line's help must not pay for torch

    if not isinstance(mode, str) or mode not in modes():
        raise OptionError(f"mode takes one of {', '.join(modes())}, got {mode!r}")


def parse(given: Mapping[str, Any] | None = None, mode: str | None = None, env: Mapping[str, str] | None = None) -> Options:
    """Check a user's options and the environment, and return them as :class:`Options`.

    Raises OptionError, with what was got and what is accepted, before anything is compiled.
    """
    values = _checked({} if given is None else given)
    if mode is not None:
        _require_mode(mode)
    recipe = values.get("recipe", find_recipe(DEFAULT))
    training = recipe if isinstance(recipe, TrainingRecipe) else None
    if training is not None:
        recipe = training.evaluation or find_recipe(DEFAULT)
        _require_live_weights(training, values)
    if values.get("tp_scales") == "shared":
        require_shared(recipe)
    options = Options(
        recipe=_adjusted(recipe, values),
        training=training,
        ignore=tuple(item for name in IGNORE_NAMES for item in values.get(name, ())),
        free_weights=values.get("free_weights", False),
        **{name: values.get(name, accepted[0]) for name, accepted in CHOICES.items()},
        dump=values.get("dump"),
        mode=mode,
    )
    return _environment(options, os.environ if env is None else env)


def parse_export(what: str, recipe: str | Recipe, given: Mapping[str, Any], accepted: Sequence[str] = EXPORTED) -> Options:
    """Check the options of an export, ``what``, to which those ``accepted`` apply; raises OptionError."""
    for name in given:
        if name not in accepted:
            raise OptionError(f"option {name!r} does not apply to {what}; accepted: {', '.join(accepted)}")
    parsed = parse({"recipe": recipe, **given})
    if parsed.training is not None and parsed.training.evaluation is None:
        raise OptionError(f"recipe {recipe!r} is for training alone; for {what} take one of {', '.join(RECIPES)}")
    return parsed
