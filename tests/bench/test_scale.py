"""The model of costs: what it adds up, on numbers that can be added by hand."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench/scale"))
from cost import Decoder, Layout, Link, Pieces, memory, step

MODEL = Decoder(hidden=64, intermediate=256, heads=8, kv_heads=4, layers=6, vocabulary=1000, head_dim=8)
PIECES = Pieces(lambda tokens: 2.0 * tokens, lambda tokens: 5.0)


def test_a_shard_has_its_part_of_every_layer():
    assert MODEL.shard(4).layer_weights * 4 == MODEL.layer_weights == 64 * (2 * (64 + 32) + 3 * 256)
    with pytest.raises(ValueError, match="do not divide by 3"):
        MODEL.shard(3)


def test_a_ring_hands_on_a_part_in_each_step():
    link = Link(latency=1.0, bandwidth=10.0)
    assert link.all_reduce(80, 1) == 0
    assert link.all_reduce(80, 4) == 6 * (1 + 20 / 10)


def test_a_step():
    link = Link(latency=1.0, bandwidth=128.0)  # a token's 64 numbers of 2 bytes take a second
    assert step(MODEL, Layout(), PIECES, link, 3) == 6 * 6 + 5
    assert step(MODEL, Layout(tensor=2), PIECES, link, 1) == 6 * (2 + 2 * 2 * 1.5) + 5
    # Two microbatches of one token, three stages of two layers: four turns of the fullest stage, and two hops.
    assert step(MODEL, Layout(pipeline=3), PIECES, link, 2, parts=2) == 4 * (2 * 2 + 5) + 2 * 2


def test_memory_is_the_fullest_rank():
    whole = memory(MODEL, Layout(), 8, 16, 2)
    assert whole == 6 * MODEL.layer_weights + 2 * 1000 * 64 * 2 + 2 * 2 * 6 * 4 * 8 * 16 * 2
    assert memory(MODEL, Layout(2, 3), 8, 16, 2) == MODEL.layer_weights + 2 * 1000 * 64 + 2 * 2 * 2 * 2 * 8 * 16 * 2
