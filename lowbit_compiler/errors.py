"""Errors that a user can mend; each message says what was got and what is accepted."""


class LowbitError(Exception):
    """Base of every error that lowbit raises on purpose."""


class OptionError(LowbitError, ValueError):
    """An unknown option, recipe, environment value or ``ignore`` name."""


class ModuleFrozenError(LowbitError):
    """A weight became another kind of tensor under ``modules="frozen"``, where no graph is compiled anew for it."""


class WeightFreedError(LowbitError, RuntimeError):
    """A float weight is needed again after ``free_weights=True`` released it."""


class ProcessesDifferError(LowbitError, RuntimeError):
    """Processes that share the scales of weights are not about to run the same graph."""


class PassError(LowbitError, RuntimeError):
    """A pass failed or broke a fact it promised; names pass, fact and node."""

    origins: frozenset[str] = frozenset()
    """The calls of the captured graph that it was at, where that is known: without them the passes may well succeed."""


class ExportError(LowbitError, RuntimeError):
    """A model cannot be exported as asked, or the exported file does not compute what the model does; no file was left behind."""


class CheckpointError(LowbitError, ValueError):
    """A file of weights is damaged, is not what it says it is, or holds what is not read; names the file, the tensor and what is accepted."""


class DebugError(LowbitError, RuntimeError):
    """There is nothing to compare with: the float model raises or gives other values from run to run, or the compiled one fell back."""


class MissingPackageError(LowbitError, ImportError):
    """A package of an optional extra is not installed; names the extra."""
