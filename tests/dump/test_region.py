"""Regions: networkx picks a module's nodes and their neighbours; DOT always, SVG where Graphviz is."""

import shutil
import subprocess
from pathlib import Path

import networkx as nx
import pytest

from helpers.dumps import dumped
from lowbit_compiler.cli.dump import dump
from lowbit_compiler.dump.files import read
from lowbit_compiler.dump.record import Record
from lowbit_compiler.dump.region import dot, draw, region, require
from lowbit_compiler.errors import OptionError


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return read(dumped(tmp_path_factory.mktemp("dump"))[0])


def test_region_is_a_module_with_its_neighbours(record: Record) -> None:
    part = region(record, 0, "blocks.1")
    inside = {name for name, data in part.nodes(data=True) if data["inside"]}
    assert inside == {node.name for node in record.nodes_of(0) if node.module == "blocks.1" or node.module.startswith("blocks.1.")}
    around = set(part) - inside
    assert around
    assert all(set(part.successors(name)) & inside or set(part.predecessors(name)) & inside for name in around)
    assert nx.is_directed_acyclic_graph(part)
    assert not any(a in around and b in around for a, b in part.edges)


def test_region_of_one_node(record: Record) -> None:
    site = next(site for site in record.sites if site.module == "head")
    part = region(record, len(record.stages) - 1, site.node)
    assert [name for name, data in part.nodes(data=True) if data["inside"]] == [site.node]


def test_dot_names_passes_and_escapes(record: Record) -> None:
    text = dot(region(record, len(record.stages) - 1, "blocks.0"), 'a "title"')
    assert 'digraph "a \\"title\\"" {' in text
    assert "made by chain" in text
    assert "aten.matmul.default" in text


def test_files(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = draw(tmp_path, record, "blocks.0")
    kinds = [path.suffix for path in files]
    assert kinds == ([".dot", ".svg"] * 2 if shutil.which("dot") else [".dot"] * 2)
    if program := shutil.which("dot"):
        subprocess.run([program, "-Tplain", str(files[0])], check=True, capture_output=True)
        assert "</svg>" in files[1].read_text()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert [path.suffix for path in draw(tmp_path / "bare", record, "blocks.0")] == [".dot", ".dot"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("blocks.0.gat", "'blocks.0.gate'"), ("gate", "'blocks.0.gate'"), ("heads", "'head'"), ("qqqqqq", "give a module, as ")],
)
def test_unknown_region(record: Record, name: str, near: str) -> None:
    with pytest.raises(OptionError, match=f"no module, site or node {name!r} in this model; .*{near}"):
        require([record], name)


def test_several_graphs_get_one_page(tmp_path: Path) -> None:
    import torch

    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            torch._dynamo.graph_break()
            result: torch.Tensor = self.second(y)
            return result

    report, files = dump(Broken().eval(), (torch.randn(4, 64),), tmp_path, plan="always", region="second")
    assert report.graphs == 2
    assert files[0][0] == tmp_path / "view.html"
    page = files[0][0].read_text()
    assert '"compile_id":"0/0"' in page
    assert '"compile_id":"1/0"' in page
    drawn = [path for path, _ in files if path.suffix == ".dot"]
    assert drawn
    assert all("graph_1" in str(path) for path in drawn)
