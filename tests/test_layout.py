"""Layouts: the same every time, near things near, and no number for what has none."""

import numpy as np
import pytest

import precompute.layout
from precompute.layout import Nearest, layout, stratified
from precompute.map_quality import purity


def clusters(items=60, dims=12, seed=0):
    rng = np.random.default_rng(seed)
    centre = np.repeat(np.eye(3, dims) * 10, items // 3, axis=0)
    return centre + rng.normal(size=(items, dims))


def groups(items, count=10, dims=8, seed=0):
    """Clusters, their items in turn: (item, dimension), and which of them each is of."""
    rng = np.random.default_rng(seed)
    group = np.arange(items) % count
    return (rng.normal(size=(count, dims)) * 8)[group] + rng.normal(size=(items, dims)), group


def pure(xy, group):
    return purity(xy, group, np.zeros_like(group), k=5)["all"]


def test_one_seed_gives_one_layout_and_clusters_stay_together():
    first, made = layout(clusters(), seed=3)
    again, _ = layout(clusters(), seed=3)
    assert np.array_equal(first, again)
    assert made["method"].startswith("t-SNE")
    distance = np.linalg.norm(first[:, None] - first, axis=-1) + np.eye(60) * 1e9
    nearest = distance.argmin(axis=1)
    assert (nearest // 20 == np.arange(60) // 20).all()


def test_vectors_with_nan_get_no_place_and_move_nobody():
    vectors = clusters()
    with_nan = np.insert(vectors, 7, np.nan, axis=0)
    placed, _ = layout(with_nan, seed=3)
    assert np.isnan(placed[7]).all()
    assert np.array_equal(np.delete(placed, 7, axis=0), layout(vectors, seed=3)[0])


def test_few_items_are_laid_out_by_their_principal_axes():
    line = np.outer(np.arange(5), [1.0, 2.0, 0.0])
    placed, made = layout(line, seed=0)
    assert made["method"] == "pca"
    assert np.allclose(np.abs(np.diff(placed[:, 0])), np.sqrt(5))
    assert np.allclose(placed[:, 1], 0, atol=1e-6)


def test_one_item_and_equal_items_are_at_the_origin():
    assert np.array_equal(layout(np.ones((1, 3)), seed=0)[0], np.zeros((1, 2)))
    placed, made = layout(np.ones((20, 3)), seed=0)
    assert np.array_equal(placed, np.zeros((20, 2)))
    assert made["method"] == "none"


def test_one_dimension_is_enough():
    placed, _ = layout(np.arange(30.0)[:, None], seed=0)
    assert np.isfinite(placed).all()


def test_many_equal_vectors_do_no_harm_to_the_others():
    vectors, group = groups(400)
    vectors[group < 5] = vectors[0]  # 200 of them, and a point has 90 neighbours
    placed, _ = layout(vectors, seed=0)
    assert np.isfinite(placed).all()
    assert pure(placed, np.maximum(group, 4)) > 0.95


@pytest.mark.parametrize("gradient", ["Barnes-Hut", "interpolated"])
def test_the_number_of_threads_changes_no_bit(gradient, monkeypatch):
    monkeypatch.setattr(precompute.layout, "ITEMS_A_THREAD", 50)
    monkeypatch.setattr(precompute.layout, "SEARCHED", 64)
    monkeypatch.setattr(precompute.layout, "POLICIES", ((1000, (20, 20), 0.5),))
    monkeypatch.setattr(precompute.layout, "FEWEST_INTERPOLATED", 1000 if gradient == "Barnes-Hut" else 100)
    vectors, _ = groups(400)
    vectors[100:200] = np.round(vectors[100:200])
    one, made = layout(vectors, seed=0, most_fitted=300, threads=1)
    two, _ = layout(vectors, seed=0, most_fitted=300, threads=2)
    assert made["gradient"] == gradient
    assert np.array_equal(one, two)


def test_neighbours_are_those_of_all_distances_whatever_the_threads():
    vectors, _ = groups(300)
    vectors[50:200] = vectors[50]
    distance = np.linalg.norm(vectors[:, None] - vectors, axis=-1)
    np.fill_diagonal(distance, np.inf)
    one, three = (Nearest(vectors, 20, threads, lambda: None).build() for threads in (1, 3))
    assert np.array_equal(one[0], three[0])
    assert np.allclose(one[1], np.sort(distance, axis=1)[:, :20], atol=1e-6)
    assert np.allclose(np.take_along_axis(distance, one[0], axis=1), one[1], atol=1e-6)


def test_what_is_not_fitted_is_placed_among_its_own():
    vectors, group = groups(640)
    vectors[[5, 600]] = np.nan
    placed, made = layout(vectors, seed=0, strata=group, most_fitted=200)
    known = np.delete(np.arange(640), [5, 600])
    assert (made["fitted"], made["placed"]) == (200, 438)
    assert np.isnan(placed[[5, 600]]).all()
    assert np.isfinite(placed[known]).all()
    assert pure(placed[known], group[known]) > 0.99
    assert np.array_equal(placed, layout(vectors, seed=0, strata=group, most_fitted=200)[0], equal_nan=True)


def test_a_place_does_not_depend_on_who_is_placed_with_it(monkeypatch):
    vectors, group = groups(400)
    together, _ = layout(vectors, seed=0, strata=group, most_fitted=200)
    monkeypatch.setattr(precompute.layout, "BLOCK", 30)
    apart, _ = layout(vectors, seed=0, strata=group, most_fitted=200)
    assert np.allclose(together, apart, atol=1e-3)


def test_a_stratified_sample_has_the_same_share_of_every_stratum_and_misses_none():
    strata = np.repeat([7, 2, 9, 4], [600, 300, 97, 3])
    taken = stratified(strata, 100, seed=0)
    assert len(set(taken)) == 100
    assert (np.diff(taken) > 0).all()
    # Of 2, 4, 7 and 9: a tenth, rounded up while there is room.
    assert np.abs(np.unique(strata[taken], return_counts=True)[1] - [30, 1, 60, 9]).max() <= 1
    assert not np.array_equal(taken, stratified(strata, 100, seed=1))


def test_a_sample_smaller_than_the_number_of_strata_prefers_none():
    taken = [stratified(np.arange(100), 10, seed=seed) for seed in range(50)]
    assert 40 < np.mean(taken) < 60


def test_progress_counts_to_its_end_and_a_check_stops_the_layout():
    vectors, group = groups(200)
    told = []
    layout(vectors, seed=0, strata=group, most_fitted=100, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (550, 550)
    assert [done for done, _ in told] == list(range(25, 575, 25))

    class Stopped(Exception):
        pass

    def stop():
        if len(told) > 3:
            raise Stopped

    told.clear()
    with pytest.raises(Stopped):
        layout(vectors, seed=0, progress=lambda done, of: told.append(done), check=stop)
    assert len(told) == 4


def test_what_is_no_list_of_vectors_is_refused():
    with pytest.raises(ValueError, match=r"vectors are \(3, 4, 5\).*reshape"):
        layout(np.zeros((3, 4, 5)), seed=0)
    with pytest.raises(ValueError, match=r"strata are \(4,\) for 3 vectors"):
        layout(np.zeros((3, 4)), seed=0, strata=np.zeros(4))
