"""Layouts: the same every time, near things near, and no number for what has none."""

import numpy as np

from precompute.layout import layout


def clusters(items=60, dims=12, seed=0):
    rng = np.random.default_rng(seed)
    centre = np.repeat(np.eye(3, dims) * 10, items // 3, axis=0)
    return centre + rng.normal(size=(items, dims))


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
