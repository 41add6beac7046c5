"""How much faster are layouts than scikit-learn's, are they as good, and how many points can be laid out?"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE

from benchmarks.measuring import Table, Timed, paired, ratio
from precompute.layout import PERPLEXITY, layout, stratified
from precompute.map_quality import neighbours_kept, purity, trustworthiness

HEADS, TIGHT, DIMENSIONS = 144, 86, 32
SEED = 0


def heads(items: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors like the autoencoder's, (item, dimension) float32, and whose each is, (item,).

    Of 144 heads 86 are tight clusters, and 58 overlap along a curve, as heads do that look alike.
    """
    rng = np.random.default_rng(SEED)
    centre = rng.normal(size=(HEADS, DIMENSIONS)) * 3
    along = np.linspace(0, 1, HEADS - TIGHT)[:, None]
    waves = np.concatenate([np.sin(np.pi * along * (k + 1) + k) for k in range(8)], axis=1)
    centre[TIGHT:] = waves @ rng.normal(size=(8, DIMENSIONS)) * 1.5
    head = np.arange(items) % HEADS
    spread = np.where(head < TIGHT, 0.5, 1.0)[:, None]
    return (centre[head] + spread * rng.normal(size=(items, DIMENSIONS))).astype(np.float32), head


def layout_table(sizes: list[int], once: list[int], rounds: int) -> Table:
    """Time and quality of layouts of so many points, against scikit-learn's; those of `once` are timed a single time.

    Of these there is no round that is not counted.
    """
    table = Table(
        "t-SNE of all heads' patterns",
        ("points", "scikit-learn, s", "Headscope, s", "times faster", "in CPU time", "trustworthiness",
         "neighbours kept", "of scikit-learn's"),
        notes=[
            "Target: ≥ 2 times faster at 20,000 points and ≥ 4 times at 50,000; trustworthiness within 0.001; ≥ 95 % "
            "of the neighbours that scikit-learn keeps.",
            f"{DIMENSIONS} dimensions, {HEADS} heads: {TIGHT} tight clusters, the others overlap along a curve. Both "
            f"with perplexity {PERPLEXITY:.0f}, a PCA start and all cores; scikit-learn's other settings are its "
            "defaults.",
            "Trustworthiness and neighbours kept at k = 15, scikit-learn's and Headscope's, from 2,000 points against "
            "all.",
        ],
    )  # fmt: skip
    table.rows += [_layout_row(items, lambda both: paired(both, rounds)) for items in sizes]
    table.rows += [_layout_row(items, _once) for items in once]
    return table


def _layout_row(items: int, timed_by: Callable[[dict[str, Callable[[], object]]], dict[str, Timed]]) -> tuple[str, ...]:
    vectors, _ = heads(items)
    xy: dict[str, np.ndarray] = {}

    def theirs() -> None:
        xy["sklearn"] = TSNE(perplexity=PERPLEXITY, init="pca", n_jobs=-1, random_state=SEED).fit_transform(vectors)

    def ours() -> None:
        xy["ours"], _ = layout(vectors, SEED)

    timed = timed_by({"sklearn": theirs, "ours": ours})
    trusted = {name: trustworthiness(vectors, of_name) for name, of_name in xy.items()}
    kept = {name: neighbours_kept(vectors, of_name) for name, of_name in xy.items()}
    return (
        f"{items:,}",
        f"{timed['sklearn'].seconds:.1f}",
        f"{timed['ours'].seconds:.1f}",
        f"**{ratio(timed['sklearn'], timed['ours']):.2f}**",
        f"{ratio(timed['sklearn'], timed['ours'], 'cpu'):.2f}",
        f"{trusted['sklearn']:.4f}, {trusted['ours']:.4f}",
        f"{kept['sklearn']:.3f}, {kept['ours']:.3f}",
        f"**{kept['ours'] / kept['sklearn']:.0%}**",
    )


def _once(variants: dict[str, Callable[[], object]]) -> dict[str, Timed]:
    timed = {}
    for name, run in variants.items():
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        timed[name] = Timed([time.perf_counter() - wall], [time.process_time() - cpu])
    return timed


def points_table(sizes: list[int]) -> Table:
    """Layouts of many points, all of them fitted: time and memory, each in a process of its own."""
    table = Table(
        "Layouts of many points",
        ("points", "seconds", "CPU seconds", "GB before", "GB at most", "trustworthiness", "neighbours kept"),
        notes=["Target: 144,000 points in ≤ 240 s on two cores. Memory: resident; before, the vectors are there."],
    )
    for items in sizes:
        table.rows.append(_alone(_points_row, items))
    return table


def _points_row(items: int) -> tuple[str, ...]:
    vectors, _ = heads(items)
    before, wall, cpu = _peak_bytes(), time.perf_counter(), time.process_time()
    xy, _ = layout(vectors, SEED, most_fitted=items)
    wall, cpu, most = time.perf_counter() - wall, time.process_time() - cpu, _peak_bytes()
    return (
        f"{items:,}",
        f"**{wall:.0f}**",
        f"{cpu:.0f}",
        f"{before / 1e9:.2f}",
        f"{most / 1e9:.2f}",
        f"{trustworthiness(vectors, xy):.4f}",
        f"{neighbours_kept(vectors, xy):.3f}",
    )


def placing_table(sizes: list[tuple[int, int]]) -> Table:
    """Points placed a second among so many fitted ones, and whether they come to lie with their own; (fitted, all)."""
    table = Table(
        "Points placed among fitted ones",
        ("fitted", "placed", "fitting, s", "placing, s", "points/s", "GB at most", "purity fitted", "purity placed",
         "by chance"),
        notes=["Purity: share of a point's 15 nearest on the whole map that are of its own head."],
    )  # fmt: skip
    for fitted, items in sizes:
        table.rows.append(_alone(_placing_row, fitted, items))
    return table


def _placing_row(fitted: int, items: int) -> tuple[str, ...]:
    vectors, head = heads(items)
    began, told = time.perf_counter(), []
    xy, made = layout(
        vectors,
        SEED,
        strata=head,
        most_fitted=fitted,
        progress=lambda done, of: told.append((done, time.perf_counter())),
    )
    ended, most = time.perf_counter(), _peak_bytes()
    fit = next(at for done, at in told if done >= sum(made["iterations"]))
    placed = np.ones(items, dtype=int)
    placed[stratified(head, fitted, SEED)] = 0
    pure = purity(xy, head, placed)
    return (
        f"{fitted:,}",
        f"{items - fitted:,}",
        f"{fit - began:.0f}",
        f"{ended - fit:.0f}",
        f"**{(items - fitted) / (ended - fit):,.0f}**",
        f"{most / 1e9:.2f}",
        *(f"{share:.3f}" for share in (*pure["layer"], pure["chance"])),
    )


def _alone(row: Callable[..., tuple[str, ...]], *sizes: int) -> tuple[str, ...]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(row, *sizes).result()


def _peak_bytes() -> int:
    """What was resident of this process at most. getrusage would count the process that started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
