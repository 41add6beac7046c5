"""Do the maps of a thousand images' heads fit into a small machine? Synthetic ones go through the stages."""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from analyses.vocabulary import CLS_PATTERNS, PATCH_PATTERNS
from benchmarks.measuring import Table
from benchmarks.synthetic import head_attention
from precompute.map_quality import purity
from precompute.patterns import cls_vector, packed, top_mask
from precompute.unit import Unit
from store.attempt import Attempt
from workers.after import after, compute_whole
from workers.memory import forget_peak, peak_mb

GRID = (14, 14)
NOISE = 0.3
UNIT = 10  # images
MOST_MB = 8000
MAPS = ("autoencoder", "latents", "patch-map", "cls-map")


def maps_table(images: int = 1000, layers: int = 12, heads: int = 12) -> Table:
    """Time and memory of the stages that make maps, on heads that each keep one pattern, drawn anew for each image."""
    table = Table(
        f"Maps of {images:,} × {layers} × {heads} = {images * layers * heads:,} synthetic heads",
        ("stage", "seconds", "most memory, MB", "map's neighbours of the same pattern", "by chance", "trustworthiness"),
        notes=[
            f"Target: at most {MOST_MB:,} MB. Memory is the whole process's, torch and this benchmark in it.",
            f"Heads of {GRID[0]}×{GRID[1]} patches, noise {NOISE}: head h of layer l has pattern (l · heads + h) "
            "mod 13 on every image, in widths, strengths and places drawn anew for each.",
        ],
    )
    with tempfile.TemporaryDirectory() as scratch, _synthetic_study(Path(scratch), images, layers, heads) as attempt:
        for each in (each for each in after() if each.name in MAPS):
            forget_peak()
            began = time.perf_counter()
            unit = Unit(attempt.so_far(), range(images), range(layers), 0, torch.device("cpu"))
            arrays, facts = compute_whole(each, unit)
            seconds = time.perf_counter() - began
            attempt.write_stage(each.name, arrays, facts)
            row = [each.name, f"{seconds:,.0f}", f"{peak_mb():,}"]
            for name, told in facts.get("maps", {}).items():
                kinds = len(CLS_PATTERNS if name == "cls" else PATCH_PATTERNS)
                group = np.tile(np.arange(layers * heads) % kinds, images)
                found = purity(arrays[f"{name}_layout"].reshape(-1, 2), group, np.zeros_like(group))
                row += [f"{found['all']:.3f}", f"{found['chance']:.3f}", f"{told['trustworthiness']:.4f}"]
            table.rows.append(row + [""] * (len(table.columns) - len(row)))
    return table


def _synthetic_study(folder: Path, images: int, layers: int, heads: int) -> Attempt:
    """An attempt that holds what maps are made of, and nothing else."""
    patches = GRID[0] * GRID[1]
    sizes = {"image": images, "layer": layers, "head": heads, "cls_entry": 2 * patches + 1}
    model = {"grid": list(GRID), "num_prefix_tokens": 1, "has_cls": True}
    ids = np.array([f"{number}" for number in range(images)], dtype=object)
    attempt = Attempt.start(
        folder / "synthetic",
        {},
        sizes | {"mask_byte": -(-(patches**2) // 8)},
        {"model": model},
        {"image": ids},
        ["image", "cls_vector", "patch_mask"],
        UNIT,
    )
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        made = pool.map(partial(_image, layers=layers, heads=heads), range(images))
        for unit, several in enumerate(_grouped(made)):
            arrays = {name: np.stack([each[name] for each in several]) for name in several[0]}
            attempt.write_unit(unit, arrays, {})
    attempt.gather()
    return attempt


def _grouped(made: Iterator[dict[str, np.ndarray]]) -> Iterator[list[dict[str, np.ndarray]]]:
    group: list[dict[str, np.ndarray]] = []
    for each in made:
        group.append(each)
        if len(group) == UNIT:
            yield group
            group = []
    if group:
        yield group


def _image(number: int, layers: int, heads: int) -> dict[str, np.ndarray]:
    """What is kept at capture of one image's heads."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(number)
    of_patches = [PATCH_PATTERNS[n % len(PATCH_PATTERNS)] for n in range(layers * heads)]
    of_cls = [CLS_PATTERNS[n % len(CLS_PATTERNS)] for n in range(layers * heads)]
    made = (head_attention(*kinds, GRID, rng, NOISE) for kinds in zip(of_patches, of_cls, strict=True))
    attn = torch.from_numpy(np.stack(list(made)))
    kept = {"cls_vector": cls_vector(attn, 1).float(), "patch_mask": packed(top_mask(attn[:, 1:, 1:]))}
    return {name: value.reshape(layers, heads, -1).numpy() for name, value in kept.items()}
