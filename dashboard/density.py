"""How many heads lie where on a map? Counts of any window of it and any part of its heads, and their picture.

A browser draws some thousand points; a map of 50,000 images has 7.2 million. So the server counts, and only
a picture goes to the page. fast-histogram does the counting: in half the time of np.bincount of cell numbers and
of boost-histogram, in a twentieth of that of np.histogram2d (benchmarks/density.py).
"""

import io
from dataclasses import dataclass

import numpy as np
from fast_histogram import histogram2d  # type: ignore[import-untyped]
from PIL import Image

from dashboard.data import Array
from dashboard.theme import Ramp

# Each contour goes around the densest places that together have this share of the heads. Shares, as a few
# heads that are always alike would outshine all others on a scale of counts.
SHARES = (0.99, 0.95, 0.87, 0.75, 0.6, 0.45, 0.3, 0.15)
CELL = 3  # pixels across, of what is counted: less is blurred away
MOST_CELLS = 240  # on a side
# Gaussian, its sigma as a part of Scott's rule for points that fill the window: his is for one hill, a map of heads
# has many small ones. The limits are pixels.
SCOTT_PART, SMALLEST_BLUR, LARGEST_BLUR = 0.06, 1.8, 10.0


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
    # Axis by axis: over rows of two numbers NumPy takes twenty times as long.
    low = np.array([points[:, axis].min() for axis in (0, 1)], float)
    high = np.array([points[:, axis].max() for axis in (0, 1)], float)
    # Points on one line, or one point, still have a window.
    room = np.where(high > low, (high - low) * margin, 1.0)
    (x0, y0), (x1, y1) = low - room, high + room
    return Window(float(x0), float(x1), float(y0), float(y1))


# --- as a picture ---


def bins_of(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns to count in for a picture of so many pixels, (height, width)."""
    rows, columns = (min(MOST_CELLS, max(1, pixels // CELL)) for pixels in size)
    return rows, columns


def smoothed(raster: Density, size: tuple[int, int]) -> Array:
    """Heads a cell at each pixel of a picture, float32 (height, width): row 0 is the highest y, as in pictures."""
    (rows, columns), (height, width) = raster.counts.shape, size
    scott = SCOTT_PART * max(1, raster.inside) ** (-1 / 6) * (height * width) ** 0.5
    blur = min(LARGEST_BLUR, max(SMALLEST_BLUR, scott))
    down = _kernel(height, rows, blur)[::-1]
    return np.asarray(down @ raster.counts.astype(np.float32) @ _kernel(width, columns, blur).T)


def _kernel(pixels: int, cells: int, blur: float) -> Array:
    """Weight of each cell at each pixel of a line, float32 (pixel, cell); of a pixel they sum to 1, so that it gets
    no fainter towards the edge, beyond which nothing was counted."""
    pixel, cell = np.arange(pixels) + 0.5, (np.arange(cells) + 0.5) * pixels / cells
    near = np.exp(-0.5 * ((pixel[:, None] - cell) / max(blur, pixels / cells / 2)) ** 2)
    return np.asarray((near / near.sum(axis=1, keepdims=True)).astype(np.float32))


def levels(values: Array, shares: tuple[float, ...] = SHARES) -> Array:
    """The value that goes around each share of all, rising."""
    falling = np.sort(values, axis=None)[::-1]
    within = np.cumsum(falling, dtype=np.float64)
    if not len(falling) or within[-1] <= 0:
        return np.full(len(shares), np.inf)
    at = np.searchsorted(within, np.array(shares) * within[-1])
    return np.asarray(falling[np.minimum(at, len(falling) - 1)])


def bands(values: Array, edges: Array) -> Array:
    """How many edges each value is above, float32: whole numbers but for a pixel's width at a contour, which would be
    jagged else."""
    down, across = np.gradient(values)
    slope = np.maximum(np.hypot(down, across), 1e-12)
    above = np.zeros_like(values)
    for edge in edges[np.isfinite(edges)]:
        above += np.clip((values - edge) / slope + 0.5, 0, 1)
    return above


def painted(raster: Density, size: tuple[int, int], ramp: Ramp) -> bytes:
    """A PNG of contours, (height, width) pixels: clear where no heads are, then through `ramp` to its last colour."""
    values = smoothed(raster, size)
    edges = levels(values)
    steps = np.round(bands(values, edges) * (255 / len(edges))).astype(np.uint8)
    return _png(steps, [(*_rgb(colour), 255) for colour in sampled(ramp, 256)], clear=255 // len(edges))


def outlined(raster: Density, size: tuple[int, int], colour: str) -> bytes:
    """A PNG of where there are heads at all, in one colour."""
    values = smoothed(raster, size)
    steps = np.round(bands(values, levels(values, SHARES[:1])) * 255).astype(np.uint8)
    return _png(steps, [(*_rgb(colour), 255)] * 256, clear=255)


def _png(steps: Array, colours: list[tuple[int, ...]], clear: int) -> bytes:
    """A PNG with a palette, whose first `clear` colours fade in."""
    faded = [(*rgb, alpha * min(1, step / clear)) for step, (*rgb, alpha) in enumerate(colours)]
    image = Image.fromarray(steps).convert("P")
    image.putpalette(np.round(faded).astype(np.uint8).tobytes(), "RGBA")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def sampled(ramp: Ramp, colours: int) -> Ramp:
    """So many colours of a ramp, evenly spaced; of one the first."""
    at, steps = np.linspace(0, len(ramp) - 1, colours), np.arange(len(ramp))
    parts = np.array([_rgb(colour) for colour in ramp])
    mixed = np.stack([np.interp(at, steps, part) for part in parts.T], axis=1).round().astype(np.uint8)
    return tuple(f"#{bytes(each).hex()}" for each in mixed)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:7]))
