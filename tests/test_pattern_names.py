"""Scores by hand, by plain loops and on heads made to have a pattern; names of what is no pattern at all."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from analyses.vocabulary import CLS_PATTERNS, PATCH_PATTERNS
from benchmarks.synthetic import confusion, confusion_table, head_attention, patch_attention
from precompute import pattern_names as module
from precompute.pattern_names import cls_scores, names, patch_scores

SELF, LEFT, RIGHT, ABOVE, BELOW, MANY_ABOVE, MANY_BELOW, BOTH, MIRRORED, BEFORE, AFTER, VERTICAL, BLOCK = range(13)
GRIDS = [(1, 1), (1, 2), (2, 1), (1, 7), (5, 1), (2, 2), (2, 5), (3, 3), (4, 3), (6, 8)]


def random_rows(grid, spread=2.0, heads=3):
    """Softmax of normal noise with a CLS key, dropped: rows sum to less than 1. float64 (head, query, key)."""
    patches = grid[0] * grid[1]
    random = torch.Generator().manual_seed(patches)
    scores = spread * torch.randn(heads, patches, patches + 1, generator=random, dtype=torch.float64)
    return scores.softmax(-1)[..., 1:]


def places(grid):
    return [(y, x) for y in range(grid[0]) for x in range(grid[1])]


def by_hand(attn, grid):
    """The 13 scores of one head, (query, key), by loops over pairs of patches."""
    at, patches = places(grid), len(attn)
    a = attn.tolist()

    def fixed(is_target):
        mass = even = most = 0.0
        for q, (y, x) in enumerate(at):
            targets = [k for k, (v, u) in enumerate(at) if is_target(y, x, v, u)]
            if targets:
                mass += sum(a[q][k] for k in targets)
                even += sum(a[q]) * len(targets) / patches
                most += 1 - len(targets) / patches
        return max(mass - even, 0) / most if most else 0.0

    above = fixed(lambda y, x, v, u: v < y - 1 and abs(u - x) <= 1)
    below = fixed(lambda y, x, v, u: v > y + 1 and abs(u - x) <= 1)
    return [
        fixed(lambda y, x, v, u: (v, u) == (y, x)),
        fixed(lambda y, x, v, u: (v, u) == (y, x - 1)),
        fixed(lambda y, x, v, u: (v, u) == (y, x + 1)),
        fixed(lambda y, x, v, u: (v, u) == (y - 1, x)),
        fixed(lambda y, x, v, u: (v, u) == (y + 1, x)),
        above,
        below,
        min(2 * min(above, below), 1),
        fixed(lambda y, x, v, u: v == y and u == grid[1] - 1 - x and u != x),
        fixed(lambda y, x, v, u: v == y and u < x - 1),
        fixed(lambda y, x, v, u: v == y and u > x + 1),
        vertical_by_hand(a),
        block_by_hand(a, at),
    ]


def vertical_by_hand(a):
    patches = len(a)
    mean = [sum(row[k] for row in a) / patches for k in range(patches)]
    even = sum(mean) / patches
    return sum(max(min(a[q][k], mean[k]) - even, 0) for q in range(patches) for k in range(patches)) / patches


def block_by_hand(a, at):
    patches = range(len(a))
    root = [[math.sqrt(value) for value in row] for row in a]
    column = [sum(root[q][k] for q in patches) / len(a) for k in patches]
    mean = [sum(a[q][k] for q in patches) / len(a) for k in patches]
    by_offset = {}
    for q in patches:
        for k in patches:
            offset = at[k][0] - at[q][0], at[k][1] - at[q][1]
            by_offset.setdefault(offset, []).append(math.sqrt(a[q][k] * a[k][q]))
    total = 0.0
    for q in patches:
        for k in patches:
            dy, dx = at[k][0] - at[q][0], at[k][1] - at[q][1]
            if max(abs(dy), abs(dx)) <= 1:
                continue
            mutual = math.sqrt(a[q][k] * a[k][q])
            explained = max(sum(by_offset[dy, dx]) / len(by_offset[dy, dx]), math.sqrt(mean[q] * mean[k]))
            one, other = ([root[p][j] - column[j] for j in patches] for p in (q, k))
            length = math.hypot(*one) * math.hypot(*other)
            likeness = max(sum(i * j for i, j in zip(one, other, strict=True)) / length, 0) if length else 0
            total += min(mutual, 2 * max(mutual - explained, 0)) * likeness
    return total / len(a)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (3, 1), (3, 4), (5, 3)])
def test_scores_are_those_of_plain_loops(grid):
    attn = random_rows(grid, spread=3)
    expected = torch.tensor([by_hand(head, grid) for head in attn], dtype=torch.float64)
    assert_close(patch_scores(attn, grid), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("spread", [0.1, 2, 20])
def test_scores_lie_between_0_and_1_on_any_grid(grid, spread):
    attn = random_rows(grid, spread)
    whole = torch.nn.functional.pad(attn, (1, 0, 1, 0), value=1 / (attn.shape[-1] + 1))
    for scores in (patch_scores(attn, grid), cls_scores(whole, num_prefix_tokens=1)):
        assert ((scores >= 0) & (scores <= 1)).all()


def shifted(grid, dy, dx):
    """All attention to the patch at the offset; where there is none it goes to CLS, and the row is 0."""
    at = places(grid)
    return torch.tensor([[float((v - y, u - x) == (dy, dx)) for v, u in at] for y, x in at])


@pytest.mark.parametrize("grid", [(4, 4), (5, 7)])
def test_a_head_that_always_looks_at_one_neighbour_scores_1_although_the_border_looks_at_cls(grid):
    for pattern, offset in {SELF: (0, 0), LEFT: (0, -1), RIGHT: (0, 1), ABOVE: (-1, 0), BELOW: (1, 0)}.items():
        scores = patch_scores(shifted(grid, *offset), grid)
        assert scores[pattern] == pytest.approx(1)
        assert names(scores) == pattern


def test_two_rows_up_is_several_above_and_two_columns_back_is_before():
    assert patch_scores(shifted((6, 5), -2, 0), (6, 5))[MANY_ABOVE] == pytest.approx(1)
    assert names(patch_scores(shifted((6, 5), -2, 0), (6, 5))) == MANY_ABOVE
    assert names(patch_scores(shifted((6, 5), 2, 1), (6, 5))) == MANY_BELOW
    assert names(patch_scores((shifted((6, 5), 2, 0) + shifted((6, 5), -2, 0)) / 2, (6, 5))) == BOTH
    assert names(patch_scores(shifted((6, 5), 0, -2), (6, 5))) == BEFORE
    assert names(patch_scores(shifted((6, 5), 0, 2), (6, 5))) == AFTER


def test_the_mirror_image_of_a_patch_is_in_its_row_and_the_middle_column_has_none():
    at = places((4, 5))
    attn = torch.tensor([[float((v, u) == (y, 4 - x)) for v, u in at] for y, x in at])
    assert patch_scores(attn, (4, 5))[MIRRORED] == pytest.approx(1)
    assert names(patch_scores(attn, (4, 5))) == MIRRORED


def test_one_target_of_all_sources_scores_all_but_its_own_share():
    attn = torch.zeros(16, 16)
    attn[:, 5] = 1
    assert patch_scores(attn, (4, 4))[VERTICAL] == pytest.approx(1 - 1 / 16)
    assert names(patch_scores(attn, (4, 4))) == VERTICAL


def test_two_halves_that_attend_to_themselves_are_blocks_and_no_columns():
    half = torch.arange(64) // 32
    scores = patch_scores((half[:, None] == half) / 32, (8, 8))
    assert names(scores) == BLOCK
    assert scores[VERTICAL] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_uniform_attention_scores_0_everywhere(grid):
    tokens = grid[0] * grid[1] + 1
    attn = torch.full((tokens, tokens), 1 / tokens, dtype=torch.float64)
    for scores in (patch_scores(attn[1:, 1:], grid), cls_scores(attn, num_prefix_tokens=1)):
        assert_close(scores, torch.zeros_like(scores), rtol=0, atol=1e-12)
        assert names(scores) == -1


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (7, 10)])
def test_noise_is_mixed_also_when_it_is_sparse_or_mutual(grid):
    tokens = grid[0] * grid[1] + 1
    random = np.random.default_rng(0)
    even = random.dirichlet(np.ones(tokens), size=(10, tokens))
    normal = random.normal(size=(10, tokens, tokens))
    sparse = np.exp(2 * normal)
    mutual = np.exp(normal + normal.swapaxes(1, 2))
    for weights in (even, sparse, mutual):
        attn = torch.from_numpy(weights / weights.sum(axis=-1, keepdims=True))
        scores = patch_scores(attn[:, 1:, 1:], grid)
        assert scores.max() < module.THRESHOLD / 2
        assert (names(scores) == -1).all()


def test_a_cls_row_of_noise_is_mixed_in_99_of_100_heads_also_on_a_small_grid():
    rows = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(65), size=1000))
    attn = torch.full((1000, 65, 65), 1 / 65, dtype=torch.float64)
    attn[:, 0] = rows
    assert (names(cls_scores(attn, num_prefix_tokens=1)) == -1).double().mean() >= 0.99


@pytest.mark.parametrize("sigma", [1.5, 2, 3, 5])
def test_attention_that_blurs_with_distance_is_mixed_and_not_a_block(sigma):
    at = torch.tensor(places((14, 14))).double()
    attn = (-(torch.cdist(at, at) ** 2) / (2 * sigma**2)).softmax(-1)
    assert names(patch_scores(attn, (14, 14))) == -1


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (7, 10)])
@pytest.mark.parametrize("noise", [0, 0.3])
def test_at_least_95_percent_of_synthetic_heads_get_their_name(grid, noise):
    of_patches, of_cls = confusion(grid, noise, each=12, seed=1)
    right = np.diag(of_patches).sum() + np.diag(of_cls).sum()
    assert right >= 0.95 * 12 * (len(PATCH_PATTERNS) + len(CLS_PATTERNS))
    assert np.diag(of_patches).min() >= 0.75 * 12, "no pattern is carried by the others"


def test_a_head_can_have_a_pattern_of_patches_and_one_of_cls():
    attn = torch.from_numpy(head_attention("below", "CLS→few patches", (8, 8), np.random.default_rng(3), noise=0.2))
    assert_close(attn.sum(dim=-1), torch.ones(65))
    assert PATCH_PATTERNS[names(patch_scores(attn[1:, 1:], (8, 8)))] == "below"
    assert CLS_PATTERNS[names(cls_scores(attn, num_prefix_tokens=1))] == "CLS→few patches"


def test_the_scores_of_the_mirrored_image_are_mirrored():
    grid, attn = (4, 6), random_rows((4, 6))
    other = attn.unflatten(-1, grid).unflatten(-3, grid)
    sideways = other.flip(-1, -3).flatten(-4, -3).flatten(-2)
    upside_down = other.flip(-2, -4).flatten(-4, -3).flatten(-2)
    order = list(range(13))
    order[LEFT], order[RIGHT], order[BEFORE], order[AFTER] = RIGHT, LEFT, AFTER, BEFORE
    assert_close(patch_scores(sideways, grid), patch_scores(attn, grid)[:, order])
    order = list(range(13))
    order[ABOVE], order[BELOW], order[MANY_ABOVE], order[MANY_BELOW] = BELOW, ABOVE, MANY_BELOW, MANY_ABOVE
    assert_close(patch_scores(upside_down, grid), patch_scores(attn, grid)[:, order])


def test_in_the_transposed_image_left_is_above():
    grid, attn = (4, 6), random_rows((4, 6))
    turned = attn.unflatten(-1, grid).unflatten(-3, grid).permute(0, 2, 1, 4, 3).flatten(-4, -3).flatten(-2)
    wanted = patch_scores(attn, grid)[:, [SELF, ABOVE, BELOW, LEFT, RIGHT, VERTICAL, BLOCK]]
    found = patch_scores(turned, (6, 4))[:, [SELF, LEFT, RIGHT, ABOVE, BELOW, VERTICAL, BLOCK]]
    assert_close(found, wanted)


def test_heads_in_any_batch_and_in_blocks_score_as_alone(monkeypatch):
    attn = random_rows((3, 4), heads=6)
    alone = torch.stack([patch_scores(head, (3, 4)) for head in attn])
    monkeypatch.setattr(module, "BLOCK", 2 * 12 * 12)
    assert_close(patch_scores(attn.unflatten(0, (2, 3)), (3, 4)), alone.unflatten(0, (2, 3)))
    assert patch_scores(attn[:0], (3, 4)).shape == (0, 13)


def test_float32_scores_as_float64():
    attn = random_rows((7, 10))
    assert_close(patch_scores(attn.float(), (7, 10)).double(), patch_scores(attn, (7, 10)), rtol=0, atol=1e-5)


def test_cls_scores_by_hand():
    attn = torch.full((11, 11), 0.1)
    attn[0] = torch.tensor([0.28, 0.0, 0.6, *[0.015] * 8])  # a register at 1; patches from 2: 0.72 in all, 0.08 each
    attn[2:, 0] = 0.4
    even = 1 / 11
    expected = [(0.28 - even) / (1 - even), (0.4 - even) / (1 - even), 0.6 - 3 * 0.08]
    assert_close(cls_scores(attn, num_prefix_tokens=2), torch.tensor(expected))


def test_a_matrix_with_a_nan_has_no_scores_and_no_name_and_spoils_no_other():
    attn = random_rows((3, 4))
    attn[1, 5, 7] = torch.nan
    scores = patch_scores(attn, (3, 4))
    assert scores.isnan().all(dim=-1).tolist() == [False, True, False]
    assert names(scores)[1] == -1
    assert names(torch.tensor([torch.nan, 0.9])) == -1


def test_a_name_needs_the_threshold_and_the_first_of_equal_scores_has_it():
    scores = torch.tensor([[0.1, 0.14], [0.2, 0.15], [0.3, 0.3], [0.1, 0.15]])
    found = names(scores, threshold=0.15)
    assert found.tolist() == [-1, 0, 0, 1]
    assert found.dtype == torch.int8


def test_the_callers_attention_stays_as_it_is():
    attn = random_rows((3, 4))
    before = attn.clone()
    patch_scores(attn, (3, 4))
    assert_close(attn, before, rtol=0, atol=0)


def test_attention_with_its_prefix_tokens_left_in_is_refused():
    with pytest.raises(ValueError, match="drop the prefix tokens"):
        patch_scores(torch.eye(10), grid=(3, 3))


def test_the_generator_refuses_what_it_cannot_make():
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="4×4"):
        patch_attention("self", (3, 9), random, 0)
    with pytest.raises(ValueError, match="there are self, left"):
        patch_attention("diagonal", (8, 8), random, 0)
    with pytest.raises(ValueError, match="there are CLS→CLS"):
        head_attention("self", "CLS", (8, 8), random, 0)


@pytest.mark.parametrize("pattern", PATCH_PATTERNS)
def test_synthetic_rows_are_attention(pattern):
    attn = patch_attention(pattern, (5, 6), np.random.default_rng(0), noise=0.3)
    assert attn.shape == (30, 30)
    assert attn.dtype == np.float32
    assert (attn >= 0).all()
    assert (attn.sum(axis=1) <= 1 + 1e-6).all()


def test_the_table_of_names_has_a_row_for_each_pattern():
    text = confusion_table((8, 8), noise=0.3, each=2).markdown()
    assert all(f"| {pattern} |" in text for pattern in (*PATCH_PATTERNS, *CLS_PATTERNS))
