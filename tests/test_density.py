"""Counts of a map are those of np.histogram2d, whatever part of the heads and of the map is asked for."""

from typing import Any

import numpy as np
import pytest

from dashboard.density import EVERY, Part, Window, density, whole

IMAGES, LAYERS, HEADS = 40, 3, 4
RNG = np.random.default_rng(0)
LAYOUT = RNG.normal(0, 30, (IMAGES, LAYERS, HEADS, 2)).astype(np.float32)
LAYOUT[7] = np.nan  # an image whose attention is not finite has no place
NAMES = RNG.integers(-1, 5, (IMAGES, LAYERS, HEADS)).astype(np.int8)
SOME = np.array([3, 7, 8, 31])
WINDOW = Window(-41.0, 35.5, -20.25, 60.0)

PARTS: dict[str, Part] = {
    "all": EVERY,
    "layer": Part(layer=2),
    "head": Part(head=1),
    "one head": Part(layer=0, head=3),
    "images": Part(images=SOME),
    "pattern": Part(pattern=3),
    "mixed": Part(pattern=-1),
    "everything": Part(layer=1, head=2, images=SOME, pattern=0),
    "nobody": Part(images=np.array([], int)),
    "no such name": Part(pattern=77),
}


def chosen(part: Part) -> np.ndarray:
    """Places that `part` has, one head after the other."""
    return np.array(
        [
            LAYOUT[image, layer, head]
            for image in (range(IMAGES) if part.images is None else part.images)
            for layer in range(LAYERS)
            for head in range(HEADS)
            if part.layer in (None, layer)
            and part.head in (None, head)
            and part.pattern in (None, NAMES[image, layer, head])
            and np.isfinite(LAYOUT[image, layer, head]).all()
        ]
    ).reshape(-1, 2)


def numpys(points: np.ndarray, window: Window, bins: tuple[int, int]) -> np.ndarray:
    span = ((window.y0, window.y1), (window.x0, window.x1))
    return np.histogram2d(points[:, 1], points[:, 0], bins=bins, range=span)[0]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("window", [WINDOW, whole(LAYOUT), Window(-3, 3, -3, 3)])
def test_counts_are_numpys(name: str, window: Window):
    part, bins = PARTS[name], (13, 22)
    got = density(LAYOUT, window, bins, part, NAMES)
    points = chosen(part)
    np.testing.assert_array_equal(got.counts, numpys(points, window, bins))
    assert got.counts.dtype == np.int64
    assert got.of == len(points)
    assert got.inside == sum(window.x0 <= x < window.x1 and window.y0 <= y < window.y1 for x, y in points.astype(float))


def test_row_0_is_low_and_column_0_is_left():
    corner = np.array([[[[0.5, 0.5], [2.5, 0.5]]]], np.float32)
    assert density(corner, Window(0, 3, 0, 2), (2, 3)).counts.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_point_on_an_edge_is_in_the_cell_above_and_right_of_it_and_the_last_edge_is_outside():
    on_edges = np.array([[[[x, 0.5] for x in (0, 1, 2, 3)]]], np.float32)
    got = density(on_edges, Window(0, 3, 0, 1), (1, 3))
    assert got.counts.tolist() == [[1, 1, 1]]
    assert (got.inside, got.of) == (3, 4)


def test_a_window_beside_the_data_is_empty():
    far = density(LAYOUT, Window(1e6, 2e6, 1e6, 2e6), (4, 5))
    assert not far.counts.any()
    assert (far.counts.shape, far.of) == ((4, 5), (IMAGES - 1) * LAYERS * HEADS)


def test_the_whole_window_has_every_point_and_cells_add_up():
    window = whole(LAYOUT)
    fine, coarse = density(LAYOUT, window, (40, 60)), density(LAYOUT, window, (10, 15))
    assert fine.inside == fine.of == coarse.inside
    np.testing.assert_array_equal(fine.counts.reshape(10, 4, 15, 4).sum(axis=(1, 3)), coarse.counts)


def test_the_parts_of_a_map_add_up_to_the_map():
    window = whole(LAYOUT)
    every = density(LAYOUT, window, (6, 7)).counts
    for parts in (
        [Part(layer=layer) for layer in range(LAYERS)],
        [Part(pattern=name) for name in range(-1, 5)],
        [Part(images=np.arange(20)), Part(images=np.arange(20, IMAGES))],
    ):
        assert (sum(density(LAYOUT, window, (6, 7), part, NAMES).counts for part in parts) == every).all()


@pytest.mark.parametrize("points", [np.full((2, 1, 1, 2), np.nan), np.empty((0, 1, 1, 2)), np.zeros((3, 1, 1, 2))])
def test_a_map_without_points_or_with_one_place_has_a_window(points: np.ndarray):
    got = density(points.astype(np.float32), whole(points), (3, 3))
    assert got.inside == got.of == np.isfinite(points[..., 0]).sum()


@pytest.mark.parametrize(
    "edges", [(0, 0, 0, 1), (1, 0, 0, 1), (0, 1, 2, 1), (0, np.nan, 0, 1), (0, np.inf, 0, 1), (-np.inf, 1, 0, 1)]
)
def test_what_is_no_window_is_refused(edges: tuple[Any, ...]):
    with pytest.raises(ValueError, match="is no window"):
        Window(*edges)


@pytest.mark.parametrize("part", [Part(layer=3), Part(layer=-1), Part(head=4), Part(images=np.array([IMAGES]))])
def test_heads_and_images_that_are_not_there_are_refused(part: Part):
    with pytest.raises(IndexError):
        density(LAYOUT, WINDOW, (3, 3), part)


def test_a_pattern_needs_the_names():
    with pytest.raises(ValueError, match="give the heads' pattern names"):
        density(LAYOUT, WINDOW, (3, 3), Part(pattern=1))


def test_a_read_only_map_is_counted_and_left_as_it_is():
    sealed = LAYOUT.copy()
    sealed.flags.writeable = False
    assert density(sealed, WINDOW, (5, 5)).inside > 0
    np.testing.assert_array_equal(sealed, LAYOUT)
