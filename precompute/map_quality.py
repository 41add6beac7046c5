"""How far can a map be trusted? What of the vectors' neighbourhoods it keeps, and what another start would have drawn.

All shares are of the k = 15 nearest points, averaged over the points asked: every one, or a seeded sample of them, each
compared with all others. Points at NaN, which have no place in the map, are left out.
"""

from collections.abc import Callable, Iterator

import numpy as np
from sklearn.neighbors import NearestNeighbors

from precompute.layout import Progress, layout, stratified

# Half of the perplexity: the neighbours that t-SNE pulls hardest.
NEIGHBOURS = 15
# Points asked for trustworthiness and neighbours_kept, whose standard errors are then below 0.5 / √2000 = 0.011.
QUERIES = 2_000
# Points asked for purity, which is told by layer and by group.
QUERIES_BY_GROUP = 100_000
# Points laid out a second time.
SAMPLE = 5_000
# Numbers in one block of distances: 256 MiB in float64.
BLOCK = 1 << 25


def trustworthiness(
    vectors: np.ndarray, xy: np.ndarray, k: int = NEIGHBOURS, queries: int = QUERIES, seed: int = 0
) -> float:
    """How few strangers are among the k nearest in the map, 1 = none.

    1 − 2 / (n k (2N − 3k − 1)) · Σᵢ Σⱼ (r(i, j) − k): i runs over the n points asked of N, j over those of its k
    nearest in the map that are not among its k nearest vectors, and r is j's rank by distance of the vectors, 1 for the
    nearest (Venna & Kaski 2001; all N points asked, it is sklearn.manifold.trustworthiness). Of equal distances all
    have the best rank.

    Args:
        vectors: (item, dimension).
        xy: The map, (item, xy).
    Raises:
        ValueError: There are not more than 2k points, or the two are not of the same items.
    """
    penalties = 0.0
    vectors, xy = _mapped(vectors, xy, k)
    asked = _asked(len(xy), queries, seed)
    near = _nearest(xy, asked, k)
    for rows, squared in _distances(vectors, asked):
        theirs = np.take_along_axis(squared, near[rows], axis=1)
        rank = 1 + np.stack([(squared < edge[:, None]).sum(axis=1) for edge in theirs.T], axis=1)
        penalties += np.maximum(rank - k, 0).sum()
    return float(1 - 2 * penalties / (len(asked) * k * (2 * len(xy) - 3 * k - 1)))


def neighbours_kept(
    vectors: np.ndarray, xy: np.ndarray, k: int = NEIGHBOURS, queries: int = QUERIES, seed: int = 0
) -> float:
    """Share of a point's k nearest in the map that are among its k nearest vectors: 1 = all, k / (N − 1) by chance.

    Also called kNN recall (Kobak & Berens 2019: KNN). Vectors as far away as the k-th nearest count as nearest.
    """
    kept = 0
    vectors, xy = _mapped(vectors, xy, k)
    asked = _asked(len(xy), queries, seed)
    near = _nearest(xy, asked, k)
    for rows, squared in _distances(vectors, asked):
        edge = np.partition(squared, k - 1, axis=1)[:, k - 1 : k]
        kept += (np.take_along_axis(squared, near[rows], axis=1) <= edge).sum()
    return float(kept / near.size)


def overlap(xy: np.ndarray, other: np.ndarray, k: int = NEIGHBOURS, queries: int = QUERIES, seed: int = 0) -> float:
    """Share of a point's k nearest in one map that are among its k nearest in another of the same items, 0 … 1.

    k / (N − 1) by chance. Turning, mirroring or scaling a map does not change it.
    """
    xy, other = _mapped(xy, other, k)
    asked = _asked(len(xy), queries, seed)
    common = _nearest(xy, asked, k)[:, :, None] == _nearest(other, asked, k)[:, None, :]
    return float(common.any(axis=2).mean())


def purity(
    xy: np.ndarray,
    group: np.ndarray,
    layer: np.ndarray,
    k: int = NEIGHBOURS,
    queries: int = QUERIES_BY_GROUP,
    seed: int = 0,
) -> dict[str, object]:
    """Share of a point's k nearest in the map that are of its own group, as when one head's images lie together.

    Args:
        xy: The map, (item, xy).
        group: Which group an item is of, (item,): a head, numbered across layers.
        layer: Which layer it is of, (item,), from 0.
    Returns:
        "all", the mean over points; "layer", the mean over each layer's, None where a layer has no point in the map;
        and "chance", what a map that knows nothing of groups would have.
    """
    known = np.isfinite(xy).all(axis=1)
    num_layers = int(layer.max()) + 1
    xy, group, layer = xy[known], group[known], layer[known]
    _enough(len(xy), k)
    asked = stratified(group, min(queries, len(xy)), seed)
    share = (group[_nearest(xy, asked, k)] == group[asked, None]).mean(axis=1)
    by_layer = [share[layer[asked] == number] for number in range(num_layers)]
    sizes = np.unique(group, return_counts=True)[1].astype(np.float64)
    return {
        "all": float(share.mean()),
        "layer": [float(of_layer.mean()) if len(of_layer) else None for of_layer in by_layer],
        "chance": float((sizes * (sizes - 1)).sum() / (len(xy) * (len(xy) - 1))),
    }


def seed_agreement(
    vectors: np.ndarray,
    xy: np.ndarray,
    seed: int,
    *,
    strata: np.ndarray | None = None,
    sample: int = SAMPLE,
    threads: int | None = None,
    progress: Progress = lambda done, of: None,
    check: Callable[[], None] = lambda: None,
) -> float:
    """Share of neighbours that the map has in common with one from another seed and a random start (`overlap`).

    Two seeds hardly differ where both start from the principal axes, so this asks more: which neighbours does the data
    alone bring together? Up to `sample` points the map is compared itself. Of more points a stratified sample is laid
    out twice, once as the map was and once from a random start; that says how firmly such data is placed, not where.

    Args:
        vectors, xy: What the map was made of, (item, dimension), and the map, (item, xy).
        seed: The map's own.
        strata, threads, progress, check: As `precompute.layout.layout` has them.
    """
    known = np.flatnonzero(np.isfinite(xy).all(axis=1))
    layouts = 1 if len(known) <= sample else 2
    if layouts == 2:
        labels = np.zeros(len(known)) if strata is None else strata[known]
        known = known[stratified(labels, sample, seed)]
        first, _ = layout(vectors[known], seed, threads=threads, progress=_part(progress, 0, 2), check=check)
    else:
        first = xy[known]
    second, _ = layout(
        vectors[known],
        seed + 1,
        start="random",
        threads=threads,
        progress=_part(progress, layouts - 1, layouts),
        check=check,
    )
    return overlap(first, second)


def _part(progress: Progress, part: int, parts: int) -> Progress:
    return lambda done, of: progress(part * of + done, parts * of)


def _mapped(vectors: np.ndarray, xy: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Both without the items that have no place."""
    if len(vectors) != len(xy):
        raise ValueError(f"{len(vectors)} vectors and {len(xy)} points; give both of the same items, in one order")
    known = np.isfinite(xy).all(axis=1) & np.isfinite(vectors).all(axis=1)
    _enough(int(known.sum()), k)
    return (vectors, xy) if known.all() else (vectors[known], xy[known])


def _enough(points: int, k: int) -> None:
    if points <= 2 * k:
        raise ValueError(f"{points} points are too few for {k} neighbours each; there must be more than {2 * k}")


def _asked(points: int, queries: int, seed: int) -> np.ndarray:
    """Which points are asked, ascending."""
    if points <= queries:
        return np.arange(points)
    return np.sort(np.random.default_rng(seed).choice(points, queries, replace=False))


def _nearest(xy: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """The k nearest in the map of each point asked, itself left out, (query, rank)."""
    found = NearestNeighbors(algorithm="kd_tree").fit(xy).kneighbors(xy[asked], k + 1, return_distance=False)
    own = found == asked[:, None]
    # Where more than k points lie on one spot a point may not be among its own nearest; then the last one goes.
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(-1, k)


def _distances(vectors: np.ndarray, asked: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of some of the points asked to all, (query, item) float64, its own infinite; block by block."""
    centre = vectors[asked].mean(axis=0, dtype=np.float64)  # less is then lost in the difference of squares
    step = max(1, BLOCK // len(vectors))
    width = max(1, BLOCK // (step + vectors.shape[1]))
    for start in range(0, len(asked), step):
        rows = slice(start, start + step)
        queries = vectors[asked[rows]] - centre
        squared = np.empty((len(queries), len(vectors)))
        for left in range(0, len(vectors), width):
            items = vectors[left : left + width] - centre
            squared[:, left : left + width] = (items**2).sum(axis=1) - 2 * (queries @ items.T)
        squared += (queries**2).sum(axis=1)[:, None]
        squared[np.arange(len(queries)), asked[rows]] = np.inf
        yield rows, squared
