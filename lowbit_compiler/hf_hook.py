"""Registers our quantizer with transformers as soon as that can load models, so that nobody has to import it for the sake of a saved model.

Stands on nothing: ``import lowbit_compiler`` must cost neither transformers nor torch.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

WHERE = "transformers.modeling_utils"
"""What every ``from_pretrained`` has imported."""
QUANTIZER = "lowbit_compiler.checkpoints.hf_quantizer"


class _Finder(importlib.abc.MetaPathFinder):
    """Sees the one import, and goes."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the others find for ``WHERE``, with a loader that registers after it."""
        if name != WHERE or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Another loader, and the registration behind it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return what the loader makes."""
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then register."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register()


def install() -> None:
    """Register now where transformers is there already, else once it is."""
    if WHERE in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    try:
        importlib.import_module(QUANTIZER)
    except ImportError:  # an older transformers: whoever asks for LowbitConfig is told
        pass
