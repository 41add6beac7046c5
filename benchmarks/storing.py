"""How much does attention take on disk, and how fast is one head's there, stored or rebuilt?"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.measuring import Table, Timed
from benchmarks.studies import DEIT_TINY, PHOTOS, VARIABLE, VIT_B, noise_study, photo_study, real_folder, real_photos
from store.study import Study, open_published

READS = 40  # a round


def store_table(rounds: int) -> Table:
    """Size and latency of attention, stored and rebuilt."""
    table = Table(
        "One head's attention out of the store",
        ("study", "attention", "MB/image", "below raw float32", "warm p50, ms", "p95", "cold p50, ms", "p95",
         "first of a layer, cold p50, ms", "open, cold p50, ms"),
        notes=[
            "Target: rebuilt from 197 tokens and 64 channels a head ≥ 6 times below raw float32 attention, warm p50 ≤ "
            "2.5 ms, cold p50 ≤ 6 ms.",
            f"`study.attention(image, layer, head)` of heads drawn at random, one thread, {READS * rounds} warm and "
            f"{READS * rounds // 4} cold reads. MB: what the reads need on disk; for rebuilt attention the inputs of "
            "all layers, without the last block's output.",
            "Cold: the pages of all files are dropped (posix_fadvise) and the study is opened anew; they are dropped "
            "again, and the first head of a layer is read, for which the layer's weights are read and folded too; they "
            "are dropped again, and a head of that layer is read of another image. The three are timed apart.",
        ],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch, threadpool_limits(1):
        for title, make in _studies(Path(scratch)).items():
            for attention in ("rebuilt", "stored"):
                with threadpool_limits(None):
                    study = make(attention)
                table.rows.append(_store_row(title, study, rounds))
    if real_folder() is None:
        table.notes.append(f"DeiT-tiny on photos was **skipped**: {VARIABLE} names no folder.")
    return table


def _studies(scratch: Path) -> dict[str, Callable[[str], Study]]:
    studies = {f"{VIT_B}, untrained, on noise": lambda attention: noise_study(PHOTOS, attention, scratch)}
    if (real := real_folder()) is not None:
        photos = real_photos(real, PHOTOS)
        studies[f"{DEIT_TINY}, trained, on photos"] = lambda attention: photo_study(real, photos, attention, scratch)
    return studies


def _store_row(title: str, study: Study, rounds: int) -> tuple[str, ...]:
    sizes, source = study.sizes, study.attention_source
    raw = sizes["layer"] * sizes["head"] * sizes["token"] ** 2 * 4
    name, share = ("attention", 1.0) if source == "stored" else ("residual", sizes["layer"] / sizes["depth"])
    files = [path for path in (study.path / name).rglob("*") if path.is_file() and path.name != "zarr.json"]
    stored = sum(path.stat().st_size for path in files) * share / sizes["image"]
    warm = _warm(study, READS * rounds)
    opening, first, cold = _cold(study, READS * rounds // 4)
    times = [f"{timed.quantile(share) * 1e3:.2f}" for timed in (warm, cold) for share in (0.5, 0.95)]
    return (
        title, str(source), f"{stored / 1e6:.2f}", f"**{raw / stored:.2f}** times", *times,
        f"{first.seconds * 1e3:.1f}", f"{opening.seconds * 1e3:.1f}",
    )  # fmt: skip


def _warm(study: Study, reads: int) -> Timed:
    timed = Timed([], [])
    for layer in range(study.sizes["layer"]):
        study.attention(0, layer, 0)
    for head in _draws(study, 2 * reads)[reads // 4 :][:reads]:
        _timed(timed, study.attention, *head)
    return timed


def _cold(study: Study, reads: int) -> tuple[Timed, Timed, Timed]:
    """Opening, the first head of a layer, and another image's head of that layer; nothing of them in memory."""
    opening, first, cold = Timed([], []), Timed([], []), Timed([], [])
    for image, layer, head in _draws(study, reads):
        folder, other = study.path.parent, (image + 1) % study.sizes["image"]
        _drop_pages(folder)
        opened = _timed(opening, open_published, folder)
        _drop_pages(folder)
        _timed(first, opened.attention, image, layer, head)
        _drop_pages(folder)
        _timed(cold, opened.attention, other, layer, head)
    return opening, first, cold


def _draws(study: Study, count: int) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, study.sizes[dim], count).tolist() for dim in ("image", "layer", "head")]
    return list(zip(*columns, strict=True))


def _timed(into: Timed, call: Callable[..., Any], *args: object) -> Any:
    wall, cpu = perf_counter(), process_time()
    result = call(*args)
    into.cpu.append(process_time() - cpu)
    into.wall.append(perf_counter() - wall)
    return result


def _drop_pages(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
