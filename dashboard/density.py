"""How many heads lie where on a map? Counts on a raster, of any window of the map and any part of the heads.

A browser draws some thousand points; a map of 50,000 images has 7.2 million. So the server counts, and only
the raster goes to the page. fast-histogram does the counting: in half the time of np.bincount of cell numbers and
of boost-histogram, in a twentieth of that of np.histogram2d (benchmarks/density.py).
"""

from dataclasses import dataclass

import numpy as np
from fast_histogram import histogram2d  # type: ignore[import-untyped]

from dashboard.data import Array


@dataclass(frozen=True)
class Window:
    """A part of a map, in the map's own units, which mean nothing. Its left and lower edges are in it, the others
    are not."""

    x0: float
    x1: float
    y0: float
    y1: float

    def __post_init__(self) -> None:
        if not np.isfinite([self.x0, self.x1, self.y0, self.y1]).all() or self.x0 >= self.x1 or self.y0 >= self.y1:
            raise ValueError(f"{self} is no window; x0 < x1 and y0 < y1 must be finite")


@dataclass(frozen=True)
class Part:
    """Which heads are counted; None is all of them.

    Attributes:
        layer, head: Of that layer, of that number in its layer.
        images: Indices of images, one-dimensional.
        pattern: With that pattern's name: its index, or -1 for mixed.
    """

    layer: int | None = None
    head: int | None = None
    images: Array | None = None
    pattern: int | None = None


@dataclass(frozen=True)
class Density:
    """How many heads lie where.

    Attributes:
        window: The part of the map that was counted.
        counts: Heads in each cell, int64 (row, column): row 0 is the lowest y, column 0 the lowest x.
        of: Heads that have a place on the map and are in the part that was asked for, in the window or not.
    """

    window: Window
    counts: Array
    of: int

    @property
    def inside(self) -> int:
        """Heads in the window."""
        return int(self.counts.sum())


EVERY = Part()


def density(
    layout: Array, window: Window, bins: tuple[int, int], part: Part = EVERY, names: Array | None = None
) -> Density:
    """Heads of a part of a map, counted in the cells of a window.

    A head without a place, NaN, is in no count.

    Args:
        layout: Places, (image, layer, head, 2).
        bins: Rows and columns of the raster.
        part: Which heads are counted.
        names: Index of each head's pattern name, (image, layer, head); needed to count by pattern.
    Raises:
        ValueError: `part` has a pattern, but there are no names.
        IndexError: `part` names an image, layer or head that the map does not have.
    """
    points = _points(layout, part, names)
    x, y = points[:, 0], points[:, 1]
    counts = histogram2d(y, x, bins=bins, range=((window.y0, window.y1), (window.x0, window.x1)))
    return Density(window, counts.astype(np.int64), int(np.isfinite(x).sum()))


def _points(layout: Array, part: Part, names: Array | None) -> Array:
    """Places of the heads that `part` has, (point, 2); a view of the map where one will do."""
    # A slice keeps the axis; an index that is out of range must not become an empty slice.
    for axis, index in ((1, part.layer), (2, part.head)):
        if index is not None and not 0 <= index < layout.shape[axis]:
            raise IndexError(f"{('layer', 'head')[axis - 1]} {index} is not in a map of 0 to {layout.shape[axis] - 1}")
    where = (
        slice(None) if part.images is None else np.asarray(part.images, np.intp),
        slice(None) if part.layer is None else slice(part.layer, part.layer + 1),
        slice(None) if part.head is None else slice(part.head, part.head + 1),
    )
    if part.pattern is None:
        return layout[where].reshape(-1, 2)
    if names is None:
        raise ValueError("to count by pattern, give the heads' pattern names")
    return np.asarray(layout[where][names[where] == part.pattern])


def whole(layout: Array, margin: float = 0.04) -> Window:
    """The window that has every point, and some room around them; any window for a map without points."""
    points = layout.reshape(-1, 2)
    if not np.isfinite(points).all():
        points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return Window(-1.0, 1.0, -1.0, 1.0)
    low, high = points.min(axis=0).astype(float), points.max(axis=0).astype(float)
    # Points on one line, or one point, still have a window.
    room = np.where(high > low, (high - low) * margin, 1.0)
    (x0, y0), (x1, y1) = low - room, high + room
    return Window(float(x0), float(x1), float(y0), float(y1))
