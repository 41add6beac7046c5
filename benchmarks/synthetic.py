"""Are patterns named rightly? Heads made to have each pattern of Fig. 13, with chance in them, and the names they get.

The makers know nothing of the scores: they draw what the paper describes (Sec. 6.3.1), with random widths, strengths
and places. `noise` is the share of every token's attention that goes anywhere: Dirichlet(1, …, 1) over all tokens.
A patch that has no target gives the rest to CLS (Fig. 14).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator

from analyses.vocabulary import CLS_PATTERNS, PATCH_PATTERNS
from benchmarks.measuring import Table
from precompute.pattern_names import cls_scores, names, patch_scores

# Below this, "several" patches beyond the next one have no room.
LEAST_SIDE = 4
# Of the patches: no region of a block head is smaller, and no more are the targets of a vertical head or of CLS.
LEAST_REGION = 1 / 8
MOST_TARGETS = 1 / 10

OFFSETS = {"self": (0, 0), "left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}


def patch_attention(pattern: str, grid: tuple[int, int], rng: Generator, noise: float) -> np.ndarray:
    """Attention between patches of a head that has one of `PATCH_PATTERNS`, float32 (query, key), rows sum to ≤ 1.

    Raises:
        ValueError: the grid is smaller than 4×4, or no such pattern.
    """
    if min(grid) < LEAST_SIDE:
        raise ValueError(f"a {grid[0]}×{grid[1]} grid has no room for all patterns; take {LEAST_SIDE}×{LEAST_SIDE} up")
    if pattern in OFFSETS:
        weights = _neighbour(OFFSETS[pattern], grid, rng)
    elif pattern in MAKERS:
        weights = MAKERS[pattern](grid, rng)
    else:
        raise ValueError(f"{pattern!r} is not a pattern; there are {', '.join(PATCH_PATTERNS)}")
    total = weights.sum(axis=1, keepdims=True)
    rows = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return ((1 - noise) * rows + noise * _anywhere(len(rows), rng)[:, 1:]).astype(np.float32)


def cls_attention(pattern: str, grid: tuple[int, int], rng: Generator, noise: float) -> np.ndarray:
    """The whole matrix of a head that has one of `CLS_PATTERNS`, float32 (token, token); its patches look anywhere."""
    patches = grid[0] * grid[1]
    return _with_cls(_anywhere(patches, rng)[:, 1:], pattern, rng, noise)


def head_attention(
    patch_pattern: str, cls_pattern: str, grid: tuple[int, int], rng: Generator, noise: float
) -> np.ndarray:
    """The whole matrix of a head that has both patterns, float32 (token, token), rows sum to 1, CLS at 0."""
    return _with_cls(patch_attention(patch_pattern, grid, rng, noise), cls_pattern, rng, noise)


def confusion(grid: tuple[int, int], noise: float, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often heads of a true pattern get each name, counts (true, named), the last name "mixed": patches', CLS'."""
    rng = np.random.default_rng(seed)
    patch_heads = np.array([[patch_attention(p, grid, rng, noise) for _ in range(each)] for p in PATCH_PATTERNS])
    cls_heads = np.array([[cls_attention(p, grid, rng, noise) for _ in range(each)] for p in CLS_PATTERNS])
    of_patches = names(patch_scores(torch.from_numpy(patch_heads), grid)).numpy()
    of_cls = names(cls_scores(torch.from_numpy(cls_heads), num_prefix_tokens=1)).numpy()
    return _counted(of_patches, len(PATCH_PATTERNS)), _counted(of_cls, len(CLS_PATTERNS))


def confusion_table(grid: tuple[int, int] = (14, 14), noise: float = 0.3, each: int = 100, seed: int = 0) -> Table:
    """The table of names, in percent of each true pattern's heads; empty where there are none."""
    table = Table(
        f"Names of synthetic heads, {grid[0]}×{grid[1]} patches, noise {noise:g}",
        ("true", *(_short(p) for p in PATCH_PATTERNS), *CLS_PATTERNS, "mixed"),
        notes=[f"Percent of {each} heads a pattern, seed {seed}. Columns in the order of the rows."],
    )
    of_patches, of_cls = confusion(grid, noise, each, seed)
    for pattern, (*counts, mixed) in zip(PATCH_PATTERNS, of_patches, strict=True):
        table.rows.append((pattern, *_percent([*counts, *[0] * len(CLS_PATTERNS), mixed], each)))
    for pattern, (*counts, mixed) in zip(CLS_PATTERNS, of_cls, strict=True):
        table.rows.append((pattern, *_percent([*[0] * len(PATCH_PATTERNS), *counts, mixed], each)))
    return table


def _neighbour(offset: tuple[int, int], grid: tuple[int, int], rng: Generator) -> np.ndarray:
    """Up to 0.3 of the attention falls beside the target, on the patches around it."""
    beside = rng.uniform(0, 0.3)
    weights = _empty(grid)
    for y, x in np.ndindex(grid):
        v, u = y + offset[0], x + offset[1]
        if _inside(v, u, grid):
            for dv, du in np.ndindex(3, 3):
                if _inside(v + dv - 1, u + du - 1, grid):
                    weights[y, x, v + dv - 1, u + du - 1] = beside / 8
            weights[y, x, v, u] = 1 - beside
    return _flat(weights)


def _several_above(grid: tuple[int, int], rng: Generator) -> np.ndarray:
    return _flat(_upward(grid, rng, least=3))


def _several_below(grid: tuple[int, int], rng: Generator) -> np.ndarray:
    return _flat(_upward(grid, rng, least=3)[::-1, :, ::-1])  # upside down


def _above_and_below(grid: tuple[int, int], rng: Generator) -> np.ndarray:
    """One side gets at most about twice as much as the other."""
    up = rng.uniform(0.35, 0.65)
    above, below = _upward(grid, rng, least=3), _upward(grid, rng, least=3)[::-1, :, ::-1]
    return _flat(up * above / above.sum() + (1 - up) * below / below.sum())


def _upward(grid: tuple[int, int], rng: Generator, least: int) -> np.ndarray:
    """Weights (y, x, y of key, x of key) on `least` to all patches above, up to half as much on those beside them."""
    strength = rng.uniform(0.4, 1, size=rng.integers(least, grid[0]))
    beside = rng.uniform(0, 0.5)
    weights = _empty(grid)
    for y, x in np.ndindex(grid):
        for step, weight in enumerate(strength[:y], start=1):
            for u in (x - 1, x, x + 1):
                if _inside(y - step, u, grid):
                    weights[y, x, y - step, u] = weight * (1 if u == x else beside / 2)
    return weights


def _mirrored(grid: tuple[int, int], rng: Generator) -> np.ndarray:
    """Up to 0.3 as much on each side of the mirror image."""
    beside = rng.uniform(0, 0.3)
    weights = _empty(grid)
    for y, x in np.ndindex(grid):
        mirror = grid[1] - 1 - x
        for u in (mirror - 1, mirror, mirror + 1):
            if _inside(y, u, grid):
                weights[y, x, y, u] = 1 if u == mirror else beside
    return _flat(weights)


def _row_before(grid: tuple[int, int], rng: Generator) -> np.ndarray:
    """From three to all patches before; up to 0.3 of the attention stays with the patch, as in Fig. 13 J."""
    strength = rng.uniform(0.4, 1, size=rng.integers(3, grid[1]))
    stays = rng.uniform(0, 0.3)
    weights = _empty(grid)
    for y, x in np.ndindex(grid):
        before = strength[:x]
        for step, weight in enumerate(before, start=1):
            weights[y, x, y, x - step] = (1 - stays) * weight / before.sum()
        if x > 0:
            weights[y, x, y, x] = stays
    return _flat(weights)


def _row_after(grid: tuple[int, int], rng: Generator) -> np.ndarray:
    return _row_before(grid, rng)[::-1, ::-1]


def _vertical(grid: tuple[int, int], rng: Generator) -> np.ndarray:
    """Up to a tenth of the patches are everyone's targets."""
    patches = grid[0] * grid[1]
    weights = np.zeros((patches, patches))
    targets = rng.choice(patches, size=rng.integers(1, max(2, int(patches * MOST_TARGETS) + 1)), replace=False)
    weights[:, targets] = rng.uniform(0.3, 1, size=len(targets)) * _jitter((patches, len(targets)), rng)
    return weights


def _block(grid: tuple[int, int], rng: Generator) -> np.ndarray:
    """Two to four regions, each patch in the nearest of random points'; of three or more, one may look at CLS."""
    patches = grid[0] * grid[1]
    y, x = np.indices(grid).reshape(2, -1, 1)
    count = rng.integers(2, 5)
    while True:
        v, u = rng.uniform(0, grid[0], count), rng.uniform(0, grid[1], count)
        region = np.argmin((y - v) ** 2 + (x - u) ** 2, axis=1)
        if np.bincount(region, minlength=count).min() >= LEAST_REGION * patches:
            break
    weights = (region[:, None] == region) * _jitter((patches, patches), rng)
    if count > 2 and rng.random() < 0.5:
        weights[region == 0] = 0
    return weights


MAKERS: dict[str, Callable[[tuple[int, int], Generator], np.ndarray]] = {
    "several above": _several_above,
    "several below": _several_below,
    "several above and below": _above_and_below,
    "mirrored": _mirrored,
    "row before": _row_before,
    "row after": _row_after,
    "vertical": _vertical,
    "block": _block,
}


def _with_cls(between: np.ndarray, pattern: str, rng: Generator, noise: float) -> np.ndarray:
    """The whole matrix: `between` for the patches, a CLS row and column of the pattern."""
    if pattern not in CLS_PATTERNS:
        raise ValueError(f"{pattern!r} is not a pattern; there are {', '.join(CLS_PATTERNS)}")
    patches = len(between)
    row = rng.dirichlet(np.ones(patches + 1))
    if pattern == "CLS→CLS":
        row *= 1 - (stays := rng.uniform(0.5, 0.95))
        row[0] += stays
    if pattern == "CLS→few patches":
        few = rng.choice(patches, size=rng.integers(1, max(2, int(patches * MOST_TARGETS) + 1)), replace=False)
        row *= 1 - (looks := rng.uniform(0.6, 0.95))
        row[1 + few] += looks * rng.dirichlet(np.full(len(few), 5))
    if pattern == "patches→CLS":
        between = between * (1 - rng.uniform(0.5, 0.8, size=(patches, 1)))
    attn = np.empty((patches + 1, patches + 1), dtype=np.float32)
    attn[0] = (1 - noise) * row + noise * rng.dirichlet(np.ones(patches + 1))
    attn[1:, 1:] = between
    attn[1:, 0] = 1 - between.sum(axis=1)
    return attn


def _anywhere(patches: int, rng: Generator) -> np.ndarray:
    """Rows of chance, (patch, token)."""
    return rng.dirichlet(np.ones(patches + 1), size=patches)


def _jitter(shape: tuple[int, int], rng: Generator) -> np.ndarray:
    return rng.lognormal(sigma=0.5, size=shape)


def _empty(grid: tuple[int, int]) -> np.ndarray:
    return np.zeros((*grid, *grid))


def _flat(weights: np.ndarray) -> np.ndarray:
    """(query, key) from (y, x, y of key, x of key)."""
    patches = weights.shape[0] * weights.shape[1]
    return weights.reshape(patches, patches)


def _inside(y: int, x: int, grid: tuple[int, int]) -> bool:
    return 0 <= y < grid[0] and 0 <= x < grid[1]


def _counted(named: np.ndarray, patterns: int) -> np.ndarray:
    return np.array([np.bincount(np.where(row < 0, patterns, row), minlength=patterns + 1) for row in named])


def _percent(counts: list[int], each: int) -> list[str]:
    return [f"{100 * count / each:.0f}" if count else "" for count in counts]


def _short(pattern: str) -> str:
    """The figure's letter, so that the table stays narrow."""
    return "ABCDEFGHIJKLM"[PATCH_PATTERNS.index(pattern)]
