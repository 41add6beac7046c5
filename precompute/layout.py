"""Which items are alike? Two-dimensional layouts by t-SNE, of hundreds of images or of millions of heads' patterns.

The layout is fitted on all items, or on a stratified sample of them where they are very many; the others are then
placed one by one among the fitted ones (Poličar, Stražar & Zupan 2023). Neighbours are exact: of 20,000 items they are
found four times faster than openTSNE's approximate ones, of 200,000 in about twice the time, and they do not depend on
the number of threads.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from openTSNE import TSNE, TSNEEmbedding
from openTSNE.affinity import Affinities, PerplexityBasedNN
from openTSNE.nearest_neighbors import KNNIndex
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

# van der Maaten's usual value; fewer items take a third of their number, which is the most that t-SNE allows.
PERPLEXITY = 30.0
# Below this, neighbourhoods mean nothing and the first two principal axes say more.
FEWEST_FOR_TSNE = 12
# More items than this are sampled: so many need 1.4 GB and, by extrapolation, five minutes on two cores.
MOST_FITTED = 200_000
# Below this Barnes-Hut's gradient is both faster than the interpolated one and closer to the exact gradient.
FEWEST_INTERPOLATED = 10_000
# Below so many items: iterations with early exaggeration and then without, and theta of Barnes-Hut, which takes a cell
# as one point where it is smaller than this share of its distance. Few items cost little: with fewer iterations and a
# theta of 0.8, layouts of 144 images were worth less. From 3,000 to 10,000 that takes half of the time, and maps are
# worth as much. More items need more iterations, to keep 95 % of the neighbours that scikit-learn's thousand iterations
# keep (docs/patterns.md).
POLICIES = (
    (3_000, (125, 375), 0.5),
    (10_000, (100, 250), 0.8),
    (30_000, (125, 500), 0.5),
    (math.inf, (125, 550), 0.5),
)
# Of a placed item. It starts amid its nearest fitted items, so it has only a short way to go.
PLACING_ITERATIONS = 50
PLACING_START = 25
# Of a further item, placed in a layout that has been there before: openTSNE's own of `transform`. It starts at the
# nearest item alone, so that what is in the layout already comes to lie on itself.
FURTHER_PERPLEXITY = 5.0
# Of few items, so many of which are less than a neighbourhood, one in so many counts as near.
FURTHER_SHARE = 10
# Items in one block of placing, and of the search for neighbours.
BLOCK = 20_000
SEARCHED = 2_048
# Fewer items to a thread, and waiting for the other threads takes longer than the work.
ITEMS_A_THREAD = 1_000
# Iterations from one report to the next; it divides the numbers above.
REPORTED = 25

Progress = Callable[[int, int], None]
Start = Literal["pca", "random"]


def layout(
    vectors: np.ndarray,
    seed: int,
    *,
    strata: np.ndarray | None = None,
    start: Start = "pca",
    most_fitted: int = MOST_FITTED,
    threads: int | None = None,
    progress: Progress = lambda done, of: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, dict[str, object]]:
    """t-SNE layout of vectors (item, dimension) → (item, xy) float32, and how it was made.

    Items with a NaN or Inf get NaN and move nobody. The seed makes it the same in every run, whatever the number of
    threads. Fewer than 12 items are laid out by PCA.

    Args:
        strata: A label of each item, (item,). Where a sample is fitted it holds the same share of every label, and at
            least one item of each, if there is room for so many.
        start: "pca" keeps what is far apart where it belongs (Kobak & Berens 2019); "random" is for asking how much
            of a layout is owed to its start.
        most_fitted: More items than this are sampled, and the others placed among the sample.
        threads: None takes all cores.
        progress: Called every few iterations with those done and those there will be.
        check: Called as often, and between blocks; it may raise, to stop.
    Raises:
        ValueError: vectors are not (item, dimension), or strata do not name each of them.
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors are {vectors.shape}, and a layout is made of (item, dimension); reshape them first")
    if strata is not None and strata.shape != (len(vectors),):
        raise ValueError(f"strata are {strata.shape} for {len(vectors)} vectors; give one label to each vector")
    placed = np.full((len(vectors), 2), np.nan, dtype=np.float32)
    known = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if len(known) > most_fitted:
        labels = np.zeros(len(known)) if strata is None else strata[known]
        fitted = known[stratified(labels, most_fitted, seed)]
    else:
        fitted = known
    sample = vectors[fitted].astype(np.float64)
    if len(fitted) < 2 or not np.ptp(sample, axis=0).any():
        placed[known] = 0
        return placed, {"method": "none", "reason": "fewer than two different vectors"}
    if len(known) < FEWEST_FOR_TSNE:
        placed[fitted] = _axes(sample)
        return placed, {"method": "pca"}
    others = np.setdiff1d(known, fitted, assume_unique=True)
    blocks = [others[first : first + BLOCK] for first in range(0, len(others), BLOCK)]
    iterations, theta = next((many, theta) for below, many, theta in POLICIES if len(fitted) < below)
    told = _told(sum(iterations) + len(blocks) * PLACING_ITERATIONS, progress, check)
    threads = min(threads or _cores(), 1 + len(fitted) // ITEMS_A_THREAD)
    # One thread for linear algebra, as its sums are cut by thread; the search for neighbours has threads of its own.
    with threadpool_limits(1, user_api="blas"):
        embedding, made = _fit(sample, seed, start, iterations, theta, threads, told, check)
        if blocks:
            # Its grid is centred anew, so this comes before any coordinate is read.
            embedding.prepare_interpolation_grid()
        placed[fitted] = np.asarray(embedding)
        for block in blocks:
            check()
            placed[block] = _place(embedding, vectors[block].astype(np.float64))
    return placed, {**made, "fitted": len(fitted), "placed": len(others)}


def place(
    vectors: np.ndarray,
    xy: np.ndarray,
    new: np.ndarray,
    method: str,
    *,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Where further vectors (item, dimension) belong in a layout that stays as it is, (item, xy) float32.

    By openTSNE's transform, as the items beside a sample are placed, but from the nearest item on; on the axes again
    where the layout was made by PCA. Those with a NaN or Inf get NaN. They do not see one another.

    Args:
        vectors: Of items of the layout: all, or some among which to place; by PCA it takes all.
        xy: Where these are.
        method: What `layout` says that it was made by.
    """
    placed = np.full((len(new), 2), np.nan, dtype=np.float32)
    wanted = np.isfinite(new).all(axis=1)
    there = np.isfinite(vectors).all(axis=1) & np.isfinite(xy).all(axis=1)
    known, at, further = vectors[there].astype(np.float64), xy[there].astype(np.float64), new[wanted].astype(np.float64)
    if not len(further) or not len(known):
        return placed
    with threadpool_limits(1, user_api="blas"):
        if method == "none":
            placed[wanted] = 0
        elif method == "pca":
            placed[wanted] = _axes(known, further)
        else:
            perplexity = min(FURTHER_PERPLEXITY, max(1.0, len(known) / FURTHER_SHARE))
            embedding = TSNEEmbedding(at, _Around(known, perplexity, min(_cores(), 1 + len(further) // 100), check))
            embedding.prepare_interpolation_grid()
            centred = np.asarray(embedding)[0] - at[0]
            placed[wanted] = _place(embedding, further, start=1) - centred
    return placed


def stratified(strata: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which items to take so that `count` of them hold the same share of every stratum, int64, ascending.

    Every stratum has its first item before any has its second, so none is left out while count ≥ strata. Which of its
    items are taken is drawn by the seed.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(strata))
    _, stratum, sizes = np.unique(strata[drawn], return_inverse=True, return_counts=True)
    by_stratum = np.argsort(stratum, kind="stable")
    within = np.arange(len(strata)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    share = within / np.repeat(sizes, sizes)
    # Shares are tied between strata; without a draw the lowest labels would win.
    first = np.lexsort((rng.random(len(strata)), share))[:count]
    return np.sort(drawn[by_stratum[first]])


def _fit(
    sample: np.ndarray,
    seed: int,
    start: Start,
    iterations: tuple[int, int],
    theta: float,
    threads: int,
    told: Callable[[], None],
    check: Callable[[], None],
) -> tuple[TSNEEmbedding, dict[str, object]]:
    perplexity = min(PERPLEXITY, (len(sample) - 1) / 3)
    gradient = "bh" if len(sample) < FEWEST_INTERPOLATED else "fft"
    affinities = PerplexityBasedNN(
        perplexity=perplexity,
        knn_index=Nearest(sample, min(len(sample) - 1, int(3 * perplexity)), threads, check),
        n_jobs=threads,
    )
    early, late = iterations
    tsne = TSNE(
        initialization=start,
        early_exaggeration_iter=early,
        n_iter=late,
        negative_gradient_method=gradient,
        theta=theta,
        n_jobs=threads,
        # Whatever it raises reaches the caller, openTSNE's own OptimizationInterrupt excepted.
        callbacks=lambda iteration, error, embedding: told(),
        callbacks_every_iters=REPORTED,
        random_state=seed,
    )
    # A single dimension has no second principal axis to start on.
    embedding = tsne.fit(np.pad(sample, ((0, 0), (0, max(0, 2 - sample.shape[1])))), affinities=affinities)
    return embedding, {
        "method": "t-SNE (openTSNE)",
        "perplexity": perplexity,
        "neighbours": "exact",
        "metric": "euclidean",
        "start": start,
        "gradient": {"bh": "Barnes-Hut", "fft": "interpolated"}[gradient],
        "iterations": list(iterations),
        # openTSNE adds it up over threads in no fixed order: its last digits differ from run to run.
        "kl_divergence": round(float(embedding.kl_divergence), 6),
        "seed": seed,
    }


def _place(embedding: TSNEEmbedding, vectors: np.ndarray, start: int = PLACING_START) -> np.ndarray:
    """Where vectors (item, dimension) belong among those fitted, (item, xy). They do not see one another."""
    partial_embedding = embedding.prepare_partial(
        vectors, initialization="median", k=start, perplexity=embedding.affinities.perplexity
    )
    # openTSNE's own settings of `transform`, but for the number of iterations and the perplexity, which is the map's.
    partial_embedding.optimize(
        PLACING_ITERATIONS,
        inplace=True,
        negative_gradient_method="fft",
        learning_rate=0.1,
        exaggeration=1.5,
        momentum=0.8,
        max_grad_norm=0.25,
        max_step_norm=None,
    )
    return np.asarray(partial_embedding)


class _Around(PerplexityBasedNN):
    """Affinities of further vectors to those of a layout, whose own to one another are not needed again."""

    def __init__(self, vectors: np.ndarray, perplexity: float, threads: int, check: Callable[[], None]) -> None:
        Affinities.__init__(self)
        self.knn_index = Nearest(vectors, int(3 * perplexity), threads, check)
        self.perplexity = perplexity
        self.n_jobs = threads
        self.P = csr_matrix((len(vectors), len(vectors)))  # looked at for its size alone


class Nearest(KNNIndex):
    """Exact nearest neighbours by Euclidean distance, the same ones for any number of threads.

    scikit-learn shares the work out by the number of threads, and then keeps other ones of several that are equally
    far. Here a block of queries is always one thread's work.
    """

    VALID_METRICS: ClassVar[list[str]] = ["euclidean"]

    def __init__(self, vectors: np.ndarray, k: int, threads: int, check: Callable[[], None]) -> None:
        super().__init__(vectors, k, n_jobs=threads)
        self.check = check
        self.search = NearestNeighbors(algorithm="brute").fit(vectors)

    def build(self) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of every vector, itself left out: (item, rank) int64 and their distances."""
        indices, distances = self.query(self.data, self.k + 1)
        own = indices == np.arange(len(indices))[:, None]
        # Of more than k vectors that equal it a vector may not be among its own nearest; then the last one goes.
        own[~own.any(axis=1), -1] = True
        return indices[~own].reshape(-1, self.k), distances[~own].reshape(-1, self.k)

    def query(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of other vectors: (query, rank) int64 and their distances."""
        # Each thread of the pool keeps scikit-learn to itself alone, for as long as it lives.
        with ThreadPoolExecutor(self.n_jobs, initializer=partial(threadpool_limits, 1, "openmp")) as pool:
            found = list(self._checked(pool.map(partial(self.search.kneighbors, n_neighbors=k), _blocks(query))))
        distances, indices = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return indices, distances

    def _checked(self, found: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
        for block in found:
            self.check()
            yield block


def _blocks(query: np.ndarray) -> list[np.ndarray]:
    return [query[first : first + SEARCHED] for first in range(0, len(query), SEARCHED)]


def _told(of: int, progress: Progress, check: Callable[[], None]) -> Callable[[], None]:
    """To be called every few iterations: checks, and says how many are done."""
    done = 0

    def tell() -> None:
        nonlocal done
        check()
        done += REPORTED
        progress(done, of)

    return tell


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _axes(vectors: np.ndarray, further: np.ndarray | None = None) -> np.ndarray:
    """Scores on the vectors' first two principal axes, (item, xy), of these or others; 0 on the second if none is."""
    count = min(2, *vectors.shape)
    axes = PCA(n_components=count, svd_solver="full")
    scores = axes.fit_transform(vectors)
    if further is not None:
        scores = axes.transform(further)
    return np.pad(scores, ((0, 0), (0, 2 - count)))
