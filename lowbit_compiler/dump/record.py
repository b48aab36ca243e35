"""The one record of a compilation that everything else is written from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from typing import Any, Protocol

from torch import fx

from lowbit_compiler.dump.source import Source, source_of
from lowbit_compiler.graph_text import Node, describe
from lowbit_compiler.report import Measured, Report, SiteReport

SCHEMA = "lowbit-dump/1"


@dataclass
class Stage:
    """The graph as one pass left it: ``nodes`` are places in the record's list, in the graph's order."""

    name: str
    note: str
    nodes: list[int]
    edits: list[list[int]]
    """What differs from the stage before: [a, b, c, d] says that its nodes [a, b) became these nodes [c, d)."""
    sites: list[int | None]
    """The node of each site that is known by now; None where it has left the graph."""
    rewrites: int = 0
    seconds: float = 0.0
    skipped: str = ""


@dataclass
class Record:
    """The stages of one compiled graph; nodes that are equal in several stages are there once."""

    recipe: str
    compile_id: str = ""
    """Dynamo's number of the frame and of its compilation, as in its logs."""
    summary: str = ""
    fallback: str = ""
    notes: list[str] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)
    """Path of a module -> its class."""
    sources: list[Source] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    sites: list[SiteReport] = field(default_factory=list)

    def nodes_of(self, stage: int) -> list[Node]:
        """Return the nodes of stage number ``stage``."""
        return [self.nodes[place] for place in self.stages[stage].nodes]

    def conclude(self, report: Report) -> None:
        """Take the decisions from ``report``."""
        self.summary, self.fallback, self.notes, self.sites = report.summary(), report.fallback, list(report.notes), list(report.sites)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as schema.json beside this file describes it."""
        data = {"schema": SCHEMA, **_plain(self), "sites": [asdict(site) for site in self.sites]}
        for key in ("sources", "nodes", "stages"):  # asdict copies every part of them: a second for a large model
            data[key] = [_plain(item) for item in data[key]]
        return data

    def to_json(self) -> str:
        """Return :meth:`to_dict` as text, with one node, stage, site or source a line."""
        parts = []
        for key, value in self.to_dict().items():
            rows = isinstance(value, list) and value and isinstance(value[0], dict)
            text = "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]" if rows else json.dumps(value)
            parts.append(f"{json.dumps(key)}: {text}")
        return "{\n" + ",\n".join(parts) + "\n}\n"

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Record":
        """Return the record that :meth:`to_dict` wrote; raises ValueError for another schema."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}, got {data.get('schema')!r}")
        fields = {key: value for key, value in data.items() if key != "schema"}
        fields["sources"] = [Source(**source) for source in data["sources"]]
        fields["nodes"] = [Node(**{**node, "inputs": tuple(node["inputs"])}) for node in data["nodes"]]
        fields["stages"] = [Stage(**stage) for stage in data["stages"]]
        fields["sites"] = [_site(site) for site in data["sites"]]
        return Record(**fields)


def _plain(item: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, not copied."""
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def _site(data: Mapping[str, Any]) -> SiteReport:
    values: dict[str, Any] | None = data["measured"]
    if values is not None:
        values = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
    measured = None if values is None else Measured(**values)
    return SiteReport(**{**data, "merged_with": tuple(data["merged_with"]), "measured": measured})


class Named(Protocol):
    """A node, or what has the name of one."""

    @property
    def name(self) -> str:
        """The name."""


class Placed(Protocol):
    """What is at some node of the graph, another one as the graph changes."""

    @property
    def call(self) -> "Named":
        """The node."""


class Recorder:
    """Fills a record while the passes run."""

    def __init__(self, record: Record, parameters: Mapping[str, str], sites: Sequence[Placed]) -> None:
        self.record = record
        self._parameters = parameters
        self._sites = sites
        self._places: dict[Node, int] = {}
        self._sources: dict[Source, int] = {}

    def stage(self, name: str, gm: fx.GraphModule, note: str, *, changed: bool = True, **counts: Any) -> Stage:
        """Add the graph as it is now; ``changed=False`` says that it is as the stage before left it."""
        stages = self.record.stages
        before = stages[-1].nodes if stages else []
        nodes = [self._place(node) for node in gm.graph.nodes] if changed or not stages else before
        edits = [] if nodes is before or not stages else _edits(before, nodes)
        named = {self.record.nodes[place].name: place for place in nodes} if self._sites else {}
        stage = Stage(name, note, nodes, edits, [named.get(site.call.name) for site in self._sites], **counts)
        stages.append(stage)
        return stage

    def _place(self, node: fx.Node) -> int:
        parameter = self._parameters.get(node.name, "") if node.op == "placeholder" else ""
        described = describe(node, parameter, self._source(node.meta.get("stack_trace")))
        place = self._places.setdefault(described, len(self.record.nodes))
        if place == len(self.record.nodes):
            self.record.nodes.append(described)
            for path, kind in (node.meta.get("nn_module_stack") or {}).values():
                self.record.modules.setdefault(path, str(getattr(kind, "__name__", kind)).rpartition(".")[2])
        return place

    def _source(self, trace: str | None) -> int | None:
        source = source_of(trace) if trace else None
        if source is None:
            return None
        place = self._sources.setdefault(source, len(self.record.sources))
        if place == len(self.record.sources):
            self.record.sources.append(source)
        return place


def _edits(before: Sequence[int], after: Sequence[int]) -> list[list[int]]:
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    return [list(places) for kind, *places in matcher.get_opcodes() if kind != "equal"]
