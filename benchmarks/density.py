"""How long does it take to count the heads of a map, of any part of them, against np.histogram2d?"""

import numpy as np

from benchmarks.measuring import Table, Timed, paired, ratio
from dashboard.data import Array
from dashboard.density import EVERY, Part, Window, density, whole

LAYERS, HEADS, PATTERNS = 12, 12, 13
SIZES = {1_000: 50, 50_000: 150}  # images, and the milliseconds that are allowed
BINS = (132, 160)
SLOW_ROUNDS = 3  # of np.histogram2d: a second each


def density_table(rounds: int) -> Table:
    """Both sizes and each filter, on the whole map; then what a person zooms to."""
    table = Table(
        "Density of a map",
        ("heads, part", "np.histogram2d, ms", "Headscope, ms", "p95, ms", "CPU, ms", "times faster"),
        notes=[
            f"Target: {', '.join(f'{most} ms for {_heads(images):,} heads' for images, most in SIZES.items())}, "
            "any filter, the map in memory.",
            f"{BINS[1]} x {BINS[0]} cells; one thread. A tenth of the images has no place. Images: a third of them. "
            "Pattern: one of 13 names, with the search for its heads; np.histogram2d has the same search.",
            "np.histogram2d: of the same points, in float64, those without a place dropped, which it asks for.",
        ],
    )
    for images in SIZES:
        table.rows += _rows(images, rounds)
    return table


def _heads(images: int) -> int:
    return images * LAYERS * HEADS


def _rows(images: int, rounds: int) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(0)
    layout = rng.normal(0, 20, (images, LAYERS, HEADS, 2)).astype(np.float32)
    layout += rng.normal(0, 60, (1, LAYERS, HEADS, 2)).astype(np.float32)
    layout[::10] = np.nan
    names = rng.integers(-1, PATTERNS, layout.shape[:3]).astype(np.int8)
    some = np.sort(rng.choice(images, images // 3, replace=False))
    everything = whole(layout)
    middle_x, middle_y = (everything.x0 + everything.x1) / 2, (everything.y0 + everything.y1) / 2
    near = Window(middle_x - 20, middle_x + 20, middle_y - 20, middle_y + 20)
    parts = {
        "all": EVERY,
        "a layer": Part(layer=4),
        "a head": Part(layer=4, head=3),
        "images": Part(images=some),
        "a pattern": Part(pattern=2),
        "images, a layer, a pattern": Part(layer=4, images=some, pattern=2),
    }
    cases = [(title, part, everything) for title, part in parts.items()] + [("all, zoomed", EVERY, near)]
    return [_row(f"{_heads(images):,}, {title}", layout, names, part, window, rounds) for title, part, window in cases]


def _row(title: str, layout: Array, names: Array, part: Part, window: Window, rounds: int) -> tuple[str, ...]:
    def ours() -> object:
        return density(layout, window, BINS, part, names)

    def plain() -> object:
        return numpys(layout, window, part, names)

    timed = paired({"ours": ours}, rounds)["ours"]
    beside = paired({"plain": plain, "ours": ours}, min(rounds, SLOW_ROUNDS))
    faster = f"{ratio(beside['plain'], beside['ours']):.0f}"
    p95, cpu = (f"{seconds * 1e3:.1f}" for seconds in (timed.quantile(0.95), timed.cpu_seconds))
    return title, _ms(beside["plain"]), f"**{_ms(timed)}**", p95, cpu, faster


def numpys(layout: Array, window: Window, part: Part, names: Array) -> Array:
    """The same counts by np.histogram2d."""
    where = (
        slice(None) if part.images is None else part.images,
        slice(None) if part.layer is None else slice(part.layer, part.layer + 1),
        slice(None) if part.head is None else slice(part.head, part.head + 1),
    )
    points = layout[where]
    points = points.reshape(-1, 2) if part.pattern is None else points[names[where] == part.pattern]
    x, y = points[np.isfinite(points).all(axis=1)].astype(np.float64).T
    return np.histogram2d(y, x, bins=BINS, range=((window.y0, window.y1), (window.x0, window.x1)))[0]


def _ms(timed: Timed) -> str:
    return f"{timed.seconds * 1e3:.1f}"
