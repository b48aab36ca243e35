"""The PyTorch program run beside ONNX Runtime: with its decisions at the border between two codes, or on all of its values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, fx

from lowbit_compiler.errors import ExportError
from lowbit_compiler.exits.onnx.build import Built, Request
from lowbit_compiler.exits.onnx.labels import INNER, MODULE, SOURCE
from lowbit_compiler.exits.onnx.quantizers import LEVELS
from lowbit_compiler.exits.onnx.session import FOLDER, session
from lowbit_compiler.runtime.reference.exported import ZERO
from lowbit_compiler.runtime.treatments.columns import hit_columns
from lowbit_compiler.torch_internals import trees

NOISE = 1e-4
"""How far sums and exponentials in another order may move a value, against the largest of its row (of its column, for the threshold)."""

lowbit = torch.ops.lowbit
ZEROS = {lowbit.quantize_unsigned.default: ZERO, lowbit.quantize_s8.default: 0}


class Inside:
    """The file at ``path`` in ONNX Runtime, with values of its graph as outputs: those that ``built`` has under the same name.

    ``decisions``: only codes and outlier columns, which is little beside the values of a large model.
    """

    def __init__(self, path: Path, built: Built, decisions: bool = False) -> None:
        model = onnx.load(str(path), load_external_data=False)
        self._program = built.decomposed
        nodes = [node for node in self._program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
        outputs = [output.name for output in model.graph.output]
        known = {node.name for node in nodes if (not decisions or _decides(node)) and not node.meta["val"].is_complex()}
        self.places = {output.removesuffix(INNER): _place(node) for node in model.graph.node for output in node.output}
        names = [output for node in model.graph.node for output in node.output if output.removesuffix(INNER) in known]
        names = [name for name in names if name not in outputs]  # these are the model's own, whatever PyTorch calls so
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        self._names, self._outputs = names, outputs
        # Outputs have names of their own in the file; without them the last step to each would go unseen.
        self._finals = [name for name in self._program.graph_signature.user_outputs if isinstance(name, str)]
        self._session = session(model.SerializeToString(), None, **{FOLDER: str(path.parent)})

    def values(self, request: Request) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return what ONNX Runtime computes for ``request``: the outputs, and all values by the names of PyTorch's nodes."""
        found = run(self._session, feeds(self._session, request), [*self._outputs, *self._names])
        outputs, inner = found[: len(self._outputs)], found[len(self._outputs) :]
        return outputs, {
            **dict(zip((name.removesuffix(INNER) for name in self._names), inner, strict=True)),
            **dict(zip(self._finals, outputs, strict=True)),
        }

    def followed(self, request: Request, theirs: dict[str, Tensor]) -> list[Tensor]:
        """Return PyTorch's outputs, with the decisions of ``theirs`` wherever a value lies at a border."""
        return _outputs(_Following(self._program.graph_module, theirs), self._program, request)

    def stepwise(self, request: Request, theirs: dict[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
        """Return (name, theirs, ours) of each value that has one name in both, where ours is computed from their inputs to it."""
        replay = _Stepwise(self._program.graph_module, theirs)
        _outputs(replay, self._program, request)
        return replay.found


def _outputs(interpreter: fx.Interpreter, program: torch.export.ExportedProgram, request: Request) -> list[Tensor]:
    with torch.no_grad():
        results = interpreter.run(*program._graph_module_flat_inputs(request.args, request.kwargs))
    return [result for result in trees.tree_leaves(results) if isinstance(result, Tensor)]


def _decides(node: fx.Node) -> bool:
    source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else node
    return node.target is lowbit.hit_columns.default or bool(source.target in ZEROS and node.args[1] == 0)


def _place(node: onnx.NodeProto) -> str:
    props: dict[str, str] = {entry.key: entry.value for entry in node.metadata_props}
    return props.get(MODULE, "") + (f" ({props[SOURCE]})" if SOURCE in props else "")


class _Following(fx.Interpreter):
    """Runs the program with ONNX Runtime's code, or outlier column, wherever the value that decides it lies within NOISE of the border.

    Elsewhere the program keeps its own, so that a wrong quantizer shows in the outputs.
    """

    def __init__(self, gm: fx.GraphModule, theirs: dict[str, Tensor]) -> None:
        super().__init__(gm)
        self._theirs = theirs

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target in ZEROS:
            name = next((user.name for user in n.users if user.args[1] == 0), "")
            if name in self._theirs:
                return at_border(self.fetch_args_kwargs_from_env(n)[0][0], result[0], self._theirs[name], ZEROS[n.target]), result[1]
        if n.target is lowbit.hit_columns.default and n.name in self._theirs:
            x, threshold = self.fetch_args_kwargs_from_env(n)[0]
            near = hit_columns(x, threshold * (1 - NOISE)) & ~hit_columns(x, threshold * (1 + NOISE))
            return torch.where(near, self._theirs[n.name], result)
        return result


def at_border(x: Tensor, codes: Tensor, theirs: Tensor, zero: int) -> Tensor:
    """Return the codes of ``x`` [..., K]: ``theirs`` where the unrounded value is within half a code and the noise of it, else ``codes``."""
    unrounded = x.double() * (LEVELS / x.double().abs().amax(-1, keepdim=True))
    return torch.where((unrounded - (theirs.double() - zero)).abs() <= 0.5 + NOISE * LEVELS, theirs, codes)


class _Stepwise(fx.Interpreter):
    """Runs the program on the values that ONNX Runtime computed: each node's result is compared, then theirs takes its place.

    So every difference is of one step, and a code that float noise moved by one further up is not held against what reads it.
    """

    def __init__(self, gm: fx.GraphModule, theirs: dict[str, Tensor]) -> None:
        super().__init__(gm)
        self._theirs = theirs
        self.found: list[tuple[str, Tensor, Tensor]] = []

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        other = self._theirs.get(n.name)
        if n.op != "call_function" or other is None or not isinstance(result, Tensor):
            return result
        self.found.append((n.name, other, result))
        return other if other.shape == result.shape and other.dtype == result.dtype else result


def feeds(running: ort.InferenceSession, request: Request) -> dict[str, Any]:
    """Return the inputs of ``request`` by the names of the session's inputs."""
    leaves = [leaf for leaf in trees.tree_leaves((request.args, request.kwargs)) if isinstance(leaf, Tensor)]
    return {given.name: leaf.detach().cpu().contiguous().numpy() for given, leaf in zip(running.get_inputs(), leaves, strict=True)}


def run(running: ort.InferenceSession, inputs: dict[str, Any], names: Sequence[str]) -> list[Tensor]:
    """Return the outputs ``names`` of a session; raises ExportError where ONNX Runtime fails."""
    try:
        values = running.run(list(names), inputs)
    except Exception as error:
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot run the file: {error}") from error
    return [torch.from_numpy(value) for value in values]
