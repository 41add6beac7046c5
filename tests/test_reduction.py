"""Principal axes of blocks are those of all points at once."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from precompute.reduction import PrincipalAxes, principal_axes


def points(count=200, features=12, seed=0):
    rng = np.random.default_rng(seed)
    spread = np.geomspace(10, 0.1, features)
    return (rng.normal(size=(count, features)) * spread + 1000).astype(np.float32)


def blocks(values, rows=64):
    return [values[start : start + rows] for start in range(0, len(values), rows)]


def test_axes_of_blocks_are_scikit_learns_of_all_points_up_to_sign():
    values = points()
    axes = principal_axes(blocks(values), count=5)
    peer = PCA(n_components=5, svd_solver="full").fit(values.astype(np.float64))
    sign = np.sign((axes.axes * peer.components_).sum(axis=1))
    np.testing.assert_allclose(axes.mean, peer.mean_, rtol=1e-12)
    np.testing.assert_allclose(axes.axes, peer.components_ * sign[:, None], atol=1e-8)
    np.testing.assert_allclose(axes.variance * len(values) / (len(values) - 1), peer.explained_variance_, rtol=1e-9)
    assert axes.share == pytest.approx(peer.explained_variance_ratio_.sum())
    scores = axes.project(values)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, peer.transform(values.astype(np.float64)) * sign, atol=1e-4)


def test_the_largest_number_of_every_axis_is_positive():
    axes = principal_axes(blocks(points()), count=12).axes
    assert (axes.max(axis=1) == np.abs(axes).max(axis=1)).all()


def test_equal_blocks_give_equal_bytes_and_other_blocks_equal_axes():
    values = points()
    first, again = (principal_axes(blocks(values), count=4) for _ in range(2))
    assert first.axes.tobytes() == again.axes.tobytes()
    assert first.project(values).tobytes() == again.project(values).tobytes()
    for rows in (1, 7, 200):
        other = principal_axes(blocks(values, rows), count=4)
        np.testing.assert_allclose(other.axes, first.axes, atol=1e-9)


def test_blocks_are_read_one_by_one():
    def reading():
        for block in blocks(points(), rows=50):
            read.append(len(block))
            yield block

    read = []
    principal_axes(reading(), count=2)
    assert read == [50, 50, 50, 50]


@pytest.mark.parametrize(("count", "features"), [(5, 12), (200, 3), (2, 2), (1, 4)])
def test_axes_that_few_points_or_features_do_not_span_are_zero(count, features):
    values = points(count, features)
    axes = principal_axes([values], count=8)
    rank = min(count - 1, features)
    assert axes.axes.shape == (8, features)
    assert (np.linalg.norm(axes.axes, axis=1) > 0.5).sum() == rank
    scores = axes.project(values)
    assert scores.shape == (count, 8) and not scores[:, rank:].any()
    between = np.linalg.norm(values[:, None].astype(np.float64) - values, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(scores[:, None] - scores, axis=-1), between, atol=1e-3)


def test_constant_features_add_nothing_and_equal_points_have_scores_zero():
    values = points(features=4)
    constant = np.concatenate([np.full((200, 3), 0.1), values], axis=1)
    alone, beside = principal_axes(blocks(values), 4), principal_axes(blocks(constant), 4)
    np.testing.assert_allclose(beside.axes[:, 3:], alone.axes, atol=1e-9)
    np.testing.assert_allclose(beside.axes[:, :3], 0, atol=1e-9)
    equal = principal_axes(blocks(np.full((200, 3), 0.1)), 2)
    assert not equal.axes.any() and not equal.project(np.full((2, 3), 0.1)).any() and equal.share == 1


def test_points_with_nan_or_inf_are_left_out_and_have_scores_nan():
    values = points()
    spoilt = np.insert(values, [3, 70, 71], [[np.nan], [np.inf], [-np.inf]], axis=0)
    rows = [slice(0, 65), slice(65, 131), slice(131, 203)]  # the blocks of 64 with their spoilt rows
    axes = principal_axes([spoilt[row] for row in rows], count=3)
    assert np.allclose(axes.axes, principal_axes(blocks(values), count=3).axes, atol=1e-9)
    scores = axes.project(spoilt)
    unknown = np.isnan(scores)
    assert unknown.all(axis=1).nonzero()[0].tolist() == [3, 71, 73] and unknown.sum() == 9


def test_points_all_spoilt_or_none_have_no_axes():
    for empty in (np.full((5, 3), np.nan), np.zeros((0, 3))):
        axes = principal_axes([empty], count=2)
        assert isinstance(axes, PrincipalAxes) and not axes.axes.any()


def test_blocks_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="block 1 has 4 features, the blocks before it have 3"):
        principal_axes([np.ones((2, 3)), np.ones((2, 4))], count=1)
    with pytest.raises(ValueError, match="no block"):
        principal_axes([], count=1)
