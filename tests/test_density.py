"""Counts of a map are those of np.histogram2d; its picture has contours around shares of the heads."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dashboard.density import (
    EVERY,
    LARGEST_BLUR,
    SHARES,
    Density,
    Part,
    Window,
    bands,
    bins_of,
    density,
    levels,
    outlined,
    painted,
    sampled,
    smoothed,
    whole,
)

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


# --- the picture ---

UNIT = Window(0, 1, 0, 1)


def raster(counts: Any) -> Density:
    counts = np.asarray(counts, np.int64)
    return Density(UNIT, counts, int(counts.sum()))


def pixels(png: bytes) -> np.ndarray:
    """A PNG as (row, column, red green blue alpha)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def test_a_picture_has_its_highest_y_on_top():
    counts = np.zeros((20, 30), int)
    counts[2, 25] = 500
    values = smoothed(raster(counts), (60, 90))
    assert values.shape == (60, 90)
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert (row // 3, column // 3) == (19 - 2, 25)


def test_an_even_density_stays_even_up_to_the_edge():
    values = smoothed(raster(np.full((20, 30), 7)), (60, 90))
    np.testing.assert_allclose(values, 7, rtol=1e-5)


def test_smoothing_moves_no_heads_far():
    counts = np.zeros((40, 40), int)
    counts[20, 20] = 1
    values = smoothed(raster(counts), (120, 120))
    far = np.hypot(*np.ogrid[-58.5:61.5, -61.5:58.5]) > 4 * LARGEST_BLUR
    assert values[far].max() < 1e-3 * values.max()


def test_each_contour_goes_around_its_share_of_the_heads():
    rng = np.random.default_rng(1)
    values = rng.gamma(0.3, size=(50, 60))
    edges = levels(values)
    assert (np.diff(edges) > 0).all()
    for edge, share in zip(edges, SHARES, strict=True):
        assert values[values >= edge].sum() / values.sum() == pytest.approx(share, abs=0.01)
    assert np.isinf(levels(np.zeros((3, 3)))).all()


def test_bands_count_the_edges_below_a_value_and_a_contour_is_a_pixel_wide():
    ramp = np.tile(np.arange(10.0), (4, 1))
    above = bands(ramp, np.array([2.25, 6.25]))
    np.testing.assert_allclose(above[0], [0, 0, 0.25, 1, 1, 1, 1.25 - 0.0, 2, 2, 2], atol=1e-6)


def test_a_picture_is_clear_where_nobody_is_and_dark_where_most_are():
    counts = np.zeros((40, 40), int)
    counts[10:14, 10:14] = 90
    counts[28:34, 26:34] = 4
    seen = pixels(painted(raster(counts), (120, 120), ("#ffffff", "#000000")))
    assert seen[2, 2, 3] == seen[60, 110, 3] == 0
    dense, thin = seen[120 - 36, 36], seen[120 - 93, 90]
    assert dense[3] == thin[3] == 255
    assert dense[0] < 40 < 150 < thin[0]


def test_an_outline_is_one_colour_with_soft_edges():
    counts = np.zeros((40, 40), int)
    counts[10:20, 10:20] = 3
    seen = pixels(outlined(raster(counts), (120, 120), "#336699"))
    assert seen[120 - 45, 45].tolist() == [0x33, 0x66, 0x99, 255]
    assert (seen[seen[..., 3] > 0][:, :3] == [0x33, 0x66, 0x99]).all()
    assert not seen[5, 5, 3]


@pytest.mark.parametrize("counts", [np.zeros((3, 4), int), np.ones((1, 1), int)])
def test_a_picture_of_nobody_or_of_one_cell_is_a_picture(counts: np.ndarray):
    assert pixels(painted(raster(counts), (30, 40), ("#ffffff", "#000000"))).shape == (30, 40, 4)
    assert pixels(outlined(raster(counts), (30, 40), "#000000")).shape == (30, 40, 4)


def test_cells_are_counted_for_pixels_but_not_too_many():
    assert bins_of((300, 290)) == (100, 96)
    assert bins_of((2, 4000)) == (1, 240)


def test_a_ramp_is_sampled_from_its_first_colour_to_its_last():
    assert sampled(("#000000", "#808080", "#ffffff"), 5) == ("#000000", "#404040", "#808080", "#c0c0c0", "#ffffff")
    assert sampled(("#102030", "#ffffff"), 1) == ("#102030",)
