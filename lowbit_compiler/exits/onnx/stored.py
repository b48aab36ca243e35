"""Weights in the file: int8 and packed int4, never float; files that appear whole or not at all."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir

from lowbit_compiler.errors import ExportError
from lowbit_compiler.exits.onnx.reader import Reader
from lowbit_compiler.runtime.files import replaceable

LARGE = 3 << 29
"""Bytes of weights from which they go into a file of their own: protobuf ends at 2 GB."""
DATA = "data"
SHARED = 64 * 64  # elements of the largest constant that translations write again and again: a stage of a rotation


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all stored tensors."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def simplify(model: ir.Model, reader: Reader) -> None:
    """Compute what depends on constants, but those that ``reader`` keeps in few bits, drop what nothing reads, and store equal tensors once; in place.

    Without the pattern rules of onnxscript's own optimize(): they take minutes on some thousand nodes, and readers have their own.
    """
    fold_constants_ir(model, onnx_shape_inference=True, should_fold=reader.folds)
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(size_limit=SHARED),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedOpsetsPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
    reader.widen(model)


def data_name(model: ir.Model, name: str) -> str:
    """Return the name of the file of the weights beside the model ``name``: after its contents, so that no other model reads it."""
    digest = hashlib.sha256()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            digest.update(value.const_value.tobytes())
    return f"{name}.{digest.hexdigest()[:16]}.{DATA}"


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Raise ExportError where the disk is full, or the like."""
    try:
        yield
    except OSError as error:
        raise ExportError(f"cannot write {str(target)!r}: {error}") from error


class Staged:
    """A model written to a folder beside ``path``: checked and tried there, then moved to its place by :meth:`publish`."""

    def __init__(self, model: ir.Model, path: Path) -> None:
        self._model = model
        self._target = path

    def __enter__(self) -> Self:
        with _writing(self._target):
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self._target.name}.", dir=self._target.parent))
            self.path = self._folder / self._target.name
            try:
                large = weight_bytes(self._model) > LARGE
                ir.save(self._model, self.path, external_data=data_name(self._model, self.path.name) if large else None)
            except BaseException:  # also an interrupt: nothing half-written may stay
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def check(self) -> None:
        """Run the checker of onnx with strict shape inference; raises what it raises."""
        onnx.checker.check_model(str(self.path), full_check=True)

    def publish(self) -> int:
        """Move the files to their place, weights first, and remove the weights of the model that was there, whose permissions they get;
        returns their bytes.

        Weights of another model have another name: whenever this is cut off, the model there has its own.
        """
        files = sorted(self._folder.iterdir(), key=lambda file: file == self.path)
        size = sum(file.stat().st_size for file in files)
        with _writing(self._target):
            for file in files:
                if self._target.exists():
                    shutil.copymode(self._target, file)
                os.replace(file, replaceable(self._target.with_name(file.name)))
        ours = re.compile(rf"{re.escape(self._target.name)}\.[0-9a-f]{{16}}\.{DATA}")
        for other in self._target.parent.iterdir():
            if ours.fullmatch(other.name) and other.name not in {file.name for file in files}:
                other.unlink(missing_ok=True)
        return size
