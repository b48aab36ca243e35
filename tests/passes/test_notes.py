"""What is known of a node is its own: a copy starts with it, and neither changes the other's."""

import pytest
import torch
from torch import fx

from helpers.graphs import TwoLinears, capture
from lowbit_compiler.passes.graph import aten, calls, copied, emit
from lowbit_compiler.passes.notes import KEY, Notes, note, notes


def _node() -> fx.Node:
    return fx.Graph().placeholder("x")


def test_a_copy_has_notes_of_its_own() -> None:
    node = _node()
    note(node, origin="x", written=True)
    copy = copied([node], fx.Graph())[node]
    note(copy, made_by="fold", written=False)
    note(node, op="linear")
    assert notes(copy) == Notes(origin="x", made_by="fold")
    assert notes(node) == Notes(origin="x", written=True, op="linear")


def test_reading_writes_nothing() -> None:
    node = _node()
    assert notes(node) == Notes()
    assert KEY not in node.meta


def test_a_name_that_is_no_field() -> None:
    with pytest.raises(TypeError, match="writen"):
        note(_node(), writen=True)


def test_what_is_emitted_like_a_node_is_not_written_or_made_like_it() -> None:
    captured, _ = capture(TwoLinears(), torch.randn(3, 96))
    like = next(node for node in captured.gm.graph.nodes if calls(node, aten.linear.default))
    note(like, origin="linear", made_by="merge", written=True, writes=True, modules="q")
    new = emit(captured.gm, aten.neg.default, like, like=like, before=like.next)
    assert notes(new) == Notes(origin="linear", op="linear")
