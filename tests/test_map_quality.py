"""The measures of a map agree with the plain way to compute them, and tell structure from noise."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness as by_sklearn

import precompute.map_quality
from precompute.layout import layout
from precompute.map_quality import neighbours_kept, overlap, purity, seed_agreement, trustworthiness

K = 7


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(150, 6))


@pytest.fixture
def xy(vectors, rng):
    """A poor map: two of the dimensions, and noise."""
    return (vectors[:, :2] + rng.normal(size=(150, 2)) * 0.3).astype(np.float32)


def nearest(points, k=K):
    distance = np.linalg.norm(points[:, None].astype(float) - points, axis=-1)
    np.fill_diagonal(distance, np.inf)
    return [set(row[:k].tolist()) for row in distance.argsort(axis=1)]


def shared(points, others):
    return np.mean([len(a & b) / K for a, b in zip(nearest(points), nearest(others), strict=True)])


def test_trustworthiness_of_all_points_is_scikit_learns(vectors, xy):
    assert trustworthiness(vectors, xy, K) == pytest.approx(by_sklearn(vectors, xy, n_neighbors=K), abs=1e-12)


def test_neighbours_kept_is_the_share_of_common_neighbours(vectors, xy):
    assert neighbours_kept(vectors, xy, K) == pytest.approx(shared(vectors, xy), abs=1e-12)


def test_overlap_is_the_share_of_common_neighbours(xy, rng):
    other = rng.normal(size=xy.shape)
    assert overlap(xy, other, K) == pytest.approx(shared(xy, other), abs=1e-12)


def test_blocks_of_distances_change_nothing(vectors, xy, monkeypatch):
    whole = trustworthiness(vectors, xy, K), neighbours_kept(vectors, xy, K)
    monkeypatch.setattr(precompute.map_quality, "BLOCK", 400)
    assert (trustworthiness(vectors, xy, K), neighbours_kept(vectors, xy, K)) == pytest.approx(whole, abs=1e-12)


def test_a_perfect_map_has_ones_far_from_the_origin_too(rng):
    xy = rng.normal(size=(100, 2)).astype(np.float32) + np.float32(1000)
    assert trustworthiness(xy, xy, K) == neighbours_kept(xy, xy, K) == 1
    turned = xy @ np.array([[0, -2], [2, 0]], dtype=np.float32)
    assert overlap(xy, turned, K) == pytest.approx(1, abs=0.01)


def test_a_sample_of_queries_comes_near_all_of_them(vectors, xy):
    few = (measure(vectors, xy, K, queries=60) for measure in (trustworthiness, neighbours_kept))
    assert tuple(few) == pytest.approx((trustworthiness(vectors, xy, K), neighbours_kept(vectors, xy, K)), abs=0.06)


def test_points_without_a_place_are_left_out(vectors, xy):
    with_nan, without_place = np.insert(vectors, 4, np.nan, axis=0), np.insert(xy, 4, np.nan, axis=0)
    assert trustworthiness(with_nan, without_place, K) == trustworthiness(vectors, xy, K)
    assert neighbours_kept(with_nan, without_place, K) == neighbours_kept(vectors, xy, K)
    assert overlap(without_place, without_place, K) == 1
    group = np.zeros(151, dtype=int)
    assert purity(without_place, group, group, K)["all"] == 1


def test_points_on_one_spot_are_not_their_own_neighbours():
    spot = np.zeros((40, 2))
    group = np.arange(40)
    assert purity(spot, group, np.zeros(40, dtype=int), K)["all"] == 0


def test_purity_of_clusters_of_shuffled_ones_and_by_layer(rng):
    group = np.repeat(np.arange(6), 40)
    layer = group // 2
    xy = np.stack([group * 100.0, np.zeros(240)], axis=1) + rng.normal(size=(240, 2))
    assert purity(xy, group, layer, K) == {"all": 1.0, "layer": [1.0] * 3, "chance": pytest.approx(39 / 239)}
    half = np.where(layer == 2, rng.permutation(group), group)
    mixed = purity(xy, half, layer, K)
    assert mixed["layer"][:2] == [1.0, 1.0]
    assert mixed["layer"][2] < 0.5
    unknown = purity(xy, rng.permutation(group), layer, K, queries=200)
    assert unknown["all"] == pytest.approx(unknown["chance"], abs=0.05)


def test_a_layer_without_a_point_in_the_map_has_no_purity(rng):
    xy = rng.normal(size=(60, 2))
    layer = np.repeat([0, 1, 2], 20)
    xy[layer == 1] = np.nan
    assert purity(xy, layer, layer, K)["layer"][1] is None


def test_what_another_start_draws_agrees_on_clusters_and_not_on_noise(rng, monkeypatch):
    curve = np.linspace(0, 40, 200)[:, None] * np.ones(8) + rng.normal(size=(200, 8)) * 0.1
    noise = rng.normal(size=(200, 50))
    agreement = [seed_agreement(vectors, layout(vectors, 0)[0], 0) for vectors in (curve, noise)]
    assert agreement[0] > 0.8
    assert agreement[1] < 0.5
    assert agreement[0] == seed_agreement(curve, layout(curve, 0)[0], 0)


def test_a_large_map_is_judged_by_a_sample_laid_out_twice(rng):
    group = np.arange(300) % 3
    vectors = rng.normal(size=(300, 5)) + group[:, None] * 10.0
    told = []
    agreement = seed_agreement(
        vectors, np.zeros((300, 2)), 0, strata=group, sample=60, progress=lambda done, of: told.append((done, of))
    )
    assert 0.3 < agreement <= 1
    assert told[0] == (25, 1000)
    assert told[-1] == (1000, 1000)


def test_too_few_points_and_unequal_ones_are_refused(vectors, xy):
    with pytest.raises(ValueError, match="10 points are too few for 7 neighbours each; there must be more than 14"):
        trustworthiness(vectors[:10], xy[:10], K)
    with pytest.raises(ValueError, match="150 vectors and 149 points"):
        neighbours_kept(vectors, xy[1:], K)
