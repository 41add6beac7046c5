"""Strength and entropy on grids small enough to count by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from precompute import strength as module
from precompute.strength import hop_entropy, hop_strength, hops
from tests import reference


def test_a_corner_of_five_by_five_has_three_neighbours_at_hop_one_and_five_at_hop_two():
    corner = hops((5, 5))[0]
    assert [(corner == k).sum().item() for k in range(5)] == [1, 3, 5, 7, 9]
    assert hops((5, 5))[12].max() == 2, "the centre has no hop 3"


@pytest.mark.parametrize("grid", [(1, 1), (3, 3), (2, 5), (4, 3)])
def test_strength_equals_the_sum_over_rings_by_hand(grid, monkeypatch):
    patches = grid[0] * grid[1]
    attn = torch.rand(2, patches + 1, patches + 1, dtype=torch.float64).softmax(-1)[:, 1:, 1:]
    monkeypatch.setattr(module, "BLOCK", 64)  # several blocks of queries
    for head in range(2):
        by_hand = torch.tensor(reference.strength(attn[head], grid), dtype=torch.float64)
        assert_close(hop_strength(attn, grid)[head], by_hand, rtol=0, atol=1e-12)


def test_attention_to_oneself_stays_at_hop_zero_and_has_no_entropy():
    strength = hop_strength(torch.eye(9, dtype=torch.float64), grid=(3, 3))
    assert_close(strength, torch.tensor([1.0, 0, 0], dtype=torch.float64))
    assert hop_entropy(strength) == 0


def test_uniform_attention_is_alike_at_every_hop_and_has_entropy_one():
    strength = hop_strength(torch.full((16, 16), 1 / 16, dtype=torch.float64), grid=(4, 4))
    assert_close(strength, torch.full((4,), 1 / 16, dtype=torch.float64))
    assert hop_entropy(strength) == pytest.approx(1)


def test_entropy_of_two_equal_hops_of_four_is_a_half():
    assert hop_entropy(torch.tensor([0.3, 0.3, 0, 0])) == pytest.approx(math.log(2) / math.log(4))


def test_attention_with_its_prefix_tokens_left_in_is_refused():
    with pytest.raises(ValueError, match="drop the prefix tokens"):
        hop_strength(torch.eye(10), grid=(3, 3))
