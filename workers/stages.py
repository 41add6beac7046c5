"""What is computed once all images are? Stages: each reads the study so far and makes whole arrays of it.

They run in the order of STAGES, since a later one reads what an earlier one wrote. A stage that was killed starts
again; one that is finished does not. The large arrays are read in blocks of images, never whole.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from precompute import autoencoder, pattern_names
from precompute.content import Agreement, object_auc, received
from precompute.layout import layout
from precompute.map_quality import NEIGHBOURS, neighbours_kept, purity, seed_agreement, trustworthiness
from precompute.reduction import principal_axes
from store.study import Study
from workers.masks import Masks

T = TypeVar("T")
Arrays = dict[str, np.ndarray]
Facts = dict[str, Any]  # root attributes, in plain JSON

# Bytes of one block of images, unpacked: what is in memory at a time.
BLOCK_BYTES = 64_000_000
# Items of a thread, in `_side_by_side`, that are under way at a time.
UNDER_WAY = 4
CLS_COMPONENTS = 50


@dataclass(frozen=True)
class Task:
    """What a stage works on.

    Attributes:
        study: Everything that is written so far.
        masks: The share of each patch that is object, (image, patch), and what was found in the folder of masks.
        progress: Called with what is done, of how much.
        check: Called often; it may raise, to stop.
    """

    study: Study
    seed: int
    device: torch.device
    masks: tuple[np.ndarray, Masks] | None
    progress: Callable[[int, int], None]
    check: Callable[[], None]

    @property
    def heads(self) -> tuple[int, int, int]:
        """Images, layers and heads."""
        sizes = self.study.sizes
        return sizes["image"], sizes["layer"], sizes["head"]

    @property
    def strata(self) -> np.ndarray:
        """The head that each point of a map is of: the same number for all images."""
        images, layers, heads = self.heads
        return np.tile(np.arange(layers * heads), images)

    def layer_blocks(self) -> list[range]:
        """Layers whose attention is read at once: so many that what all threads hold of it stays small."""
        _, layers, heads = self.heads
        tokens = _patches(self.study) + self.study.attrs["model"]["num_prefix_tokens"]
        a_layer = 4 * heads * tokens**2 * UNDER_WAY * torch.get_num_threads()
        step = max(1, BLOCK_BYTES // a_layer)
        return [range(first, min(first + step, layers)) for first in range(0, layers, step)]

    def part(self, part: int, parts: int) -> Callable[[int, int], None]:
        """Progress of one part of equal parts, in per cent of the whole."""
        return lambda done, of: self.progress(100 * (part * of + done) // (parts * of), 100)

    def blocks(self, name: str, bytes_a_head: int) -> Iterator[np.ndarray]:
        """All heads of all images, (head of image, …), some images at a time."""
        images, layers, heads = self.heads
        step = max(1, BLOCK_BYTES // (layers * heads * bytes_a_head))
        for start in range(0, images, step):
            self.check()
            block = self.study.read(name, slice(start, start + step))
            yield block.reshape(-1, *block.shape[3:])


@dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
        name: By which a resumed run knows that it is finished.
        arrays: What it writes; of these, those that the model allows.
        counted: What its progress is counted in.
        run: Does it, and tells what is to stand in the root attributes.
        skipped_by: The word after --skip that leaves it out.
    """

    name: str
    arrays: tuple[str, ...]
    counted: str
    run: Callable[[Task], tuple[Arrays, Facts]]
    skipped_by: str | None = "patterns"


def image_layouts(task: Task) -> tuple[Arrays, Facts]:
    """Where the images are, by what pruning each head does to them."""
    study = task.study
    images = study.sizes["image"]
    placed, made = [], {}
    for done, vector in enumerate(study.vectors):
        task.check()
        task.progress(done, len(study.vectors))
        if vector == "pruned_probability":
            values = study.read(vector)
        else:
            values = study.read("importance", study.metric_index(vector))
        xy, made[vector] = layout(values.reshape(images, -1), task.seed, check=task.check)
        placed.append(xy)
    task.progress(len(study.vectors), len(study.vectors))
    return {"image_layout": np.stack(placed)}, {"layouts": made}


def patterns(task: Task) -> tuple[Arrays, Facts]:
    """What each head's attention is like, by name; and how far it is the same on every image."""
    study, (images, layers, heads) = task.study, task.heads
    model = study.attrs["model"]
    grid, prefix, has_cls = tuple(model["grid"]), model["num_prefix_tokens"], model["has_cls"]
    kinds = len(pattern_names.PATCH_PATTERNS), len(pattern_names.CLS_PATTERNS)
    scores = torch.empty(images, layers, heads, kinds[0])
    cls_scores = torch.empty(images, layers, heads, kinds[1])
    relevance = torch.empty(layers, heads)

    def see(several: range, image: int) -> torch.Tensor:
        """Scores the heads of some layers on an image; returns their attention between patches, by layer."""
        task.check()
        attn = torch.from_numpy(study.layers_attention(image, several))
        between = attn[..., prefix:, prefix:]
        scores[image, several.start : several.stop] = pattern_names.patch_scores(between, grid)
        if has_cls:
            cls_scores[image, several.start : several.stop] = pattern_names.cls_scores(attn, prefix)
        return between

    for several in task.layer_blocks():
        agreements = [Agreement(heads, grid[0] * grid[1]) for _ in several]
        for image, between in enumerate(_side_by_side(partial(see, several), range(images))):
            for agreement, of_layer in zip(agreements, between, strict=True):
                agreement.add(of_layer)
            task.progress(several.start * images + (image + 1) * len(several), layers * images)
        relevance[several.start : several.stop] = torch.stack([agreement.relevance() for agreement in agreements])
    names = pattern_names.names(scores)
    arrays = {
        "pattern": np.array(pattern_names.PATCH_PATTERNS, dtype=object),
        "pattern_score": scores.numpy(),
        "pattern_name": names.numpy(),
        "content_relevance": relevance.numpy(),
    }
    facts = {"threshold": pattern_names.THRESHOLD, "mixed": _share_of_mixed(names)}
    if has_cls:
        cls_names = pattern_names.names(cls_scores)
        arrays |= {
            "cls_pattern": np.array(pattern_names.CLS_PATTERNS, dtype=object),
            "cls_pattern_score": cls_scores.numpy(),
            "cls_pattern_name": cls_names.numpy(),
        }
        facts["cls_mixed"] = _share_of_mixed(cls_names)
    return arrays, {"patterns": facts}


def objects(task: Task) -> tuple[Arrays, Facts]:
    """How far each head's attention follows the object, on the images that have a mask."""
    assert task.masks is not None
    covered, found = task.masks
    study, (images, layers, heads) = task.study, task.heads
    prefix, has_cls = study.attrs["model"]["num_prefix_tokens"], study.attrs["model"]["has_cls"]
    patch_auc, cls_auc = np.full((2, images, layers, heads), np.nan, dtype=np.float32)
    masked = np.flatnonzero(np.isfinite(covered).all(axis=1))
    blocks = task.layer_blocks()

    def see(image: int) -> None:
        """Scores all heads on an image."""
        share = torch.from_numpy(covered[image])
        for several in blocks:
            task.check()
            attn = torch.from_numpy(study.layers_attention(image, several))
            patch_auc[image, several.start : several.stop] = object_auc(received(attn[..., prefix:, prefix:]), share)
            if has_cls:
                cls_auc[image, several.start : several.stop] = object_auc(attn[..., 0, prefix:], share)

    for done, _ in enumerate(_side_by_side(see, masked.tolist())):
        task.progress(done + 1, len(masked))
    arrays = {"object": covered, "object_auc": patch_auc}
    facts = asdict(found) | {"centre_auc": _centre_auc(covered[masked], study.attrs["model"]["grid"])}
    return arrays | ({"cls_object_auc": cls_auc} if has_cls else {}), {"masks": facts}


def _centre_auc(covered: np.ndarray, grid: list[int]) -> float | None:
    """The mean AUC of what never looks at a picture: the nearer to the centre, the more. None without an object."""
    y, x = np.indices(grid) - (np.array(grid)[:, None, None] - 1) / 2  # halves are exact, so equal distances are ties
    nearness = np.broadcast_to(-(y**2 + x**2).ravel(), covered.shape).copy()
    found = object_auc(torch.from_numpy(nearness), torch.from_numpy(covered))
    found = found[~found.isnan()]
    return float(found.mean()) if len(found) else None


def cls_map(task: Task) -> tuple[Arrays, Facts]:
    """All heads of all images, by the attention from and to CLS."""

    def blocks() -> Iterator[np.ndarray]:
        return task.blocks("cls_vector", 20 * task.study.sizes["cls_entry"])  # float32, and twice float64

    axes = principal_axes(blocks(), CLS_COMPONENTS)
    points = np.concatenate([axes.project(block) for block in blocks()])
    return _map(task, points, "cls", {"components": CLS_COMPONENTS, "explained": axes.share})


def train_autoencoder(task: Task) -> tuple[Arrays, Facts]:
    """The autoencoder, trained on as many matrices of each head."""
    study = task.study
    sample, held_out = autoencoder.training_sample(*task.heads, task.seed)
    trained = autoencoder.train(
        _masks_of(task, sample),
        held_out,
        _patches(study),
        task.seed,
        device=task.device,
        progress=task.progress,
        check=task.check,
    )
    return {"autoencoder": trained.parameters}, {"autoencoder": {**trained.settings, "loss": trained.loss}}


def latents(task: Task) -> tuple[Arrays, Facts]:
    """What the autoencoder makes of every matrix."""
    study, (images, layers, heads) = task.study, task.heads
    parameters, patches = study.read("autoencoder"), _patches(study)
    found = []
    for block in task.blocks("patch_mask", 5 * patches**2):
        found.append(autoencoder.encode(parameters, block, patches, device=task.device))
        task.progress(sum(map(len, found)), images * layers * heads)
    return {"patch_latent": np.concatenate(found).reshape(images, layers, heads, -1)}, {}


def patch_map(task: Task) -> tuple[Arrays, Facts]:
    """All heads of all images, by the autoencoder's latents."""
    points = task.study.read("patch_latent")
    return _map(task, points.reshape(-1, points.shape[-1]), "patch", {"latent": points.shape[-1]})


STAGES = (
    Stage("layouts", ("image_layout",), "layouts", image_layouts, skipped_by=None),
    Stage(
        "patterns",
        (
            *("pattern", "pattern_score", "pattern_name", "content_relevance"),
            *("cls_pattern", "cls_pattern_score", "cls_pattern_name"),
        ),
        "layers of images",
        patterns,
    ),
    Stage("objects", ("object", "object_auc", "cls_object_auc"), "images", objects),
    Stage("autoencoder", ("autoencoder",), "batches", train_autoencoder),
    Stage("latents", ("patch_latent",), "heads of images", latents),
    Stage("patch-map", ("patch_layout",), "%", patch_map),
    Stage("cls-map", ("cls_layout",), "%", cls_map),
)


def _map(task: Task, points: np.ndarray, name: str, settings: Facts) -> tuple[Arrays, Facts]:
    """The layout of all heads of all images, (head of image, dimension), and how far it can be trusted."""
    images, layers, heads = task.heads
    xy, made = layout(points, task.seed, strata=task.strata, progress=task.part(0, 2), check=task.check)
    told = _trust(task, points, xy)
    task.progress(100, 100)
    return {f"{name}_layout": xy.reshape(images, layers, heads, 2)}, {"maps": {name: settings | made | told}}


def _trust(task: Task, points: np.ndarray, xy: np.ndarray) -> Facts:
    """What a map is worth; None for each number where there are too few points to tell."""
    if np.isfinite(xy).all(axis=1).sum() <= 2 * NEIGHBOURS:
        return dict.fromkeys(("trustworthiness", "neighbours_kept", "seed_agreement", "purity"))
    layer = task.strata // task.heads[2]
    return {
        "neighbours": NEIGHBOURS,
        "trustworthiness": trustworthiness(points, xy, seed=task.seed),
        "neighbours_kept": neighbours_kept(points, xy, seed=task.seed),
        "purity": purity(xy, task.strata, layer, seed=task.seed),
        "seed_agreement": seed_agreement(
            points, xy, task.seed, strata=task.strata, progress=task.part(1, 2), check=task.check
        ),
    }


def _masks_of(task: Task, sample: np.ndarray) -> np.ndarray:
    """The packed masks of some heads, (matrix, byte), of which `sample` has image, layer and head, (matrix, 3)."""
    found = []
    for image in np.unique(sample[:, 0]):
        task.check()
        _, layer, head = sample[sample[:, 0] == image].T
        found.append(task.study.read("patch_mask", int(image))[layer, head])
    return np.concatenate(found)


def _patches(study: Study) -> int:
    rows, columns = study.attrs["model"]["grid"]
    return int(rows * columns)


def _side_by_side(see: Callable[[int], T], items: Sequence[int]) -> Iterator[T]:
    """`see` of each item, in order, by as many threads as torch has; torch itself has one in each.

    Small operations leave most cores idle otherwise. Only some items are under way at a time.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            step = UNDER_WAY * threads
            for start in range(0, len(items), step):
                yield from pool.map(see, items[start : start + step])
    finally:
        torch.set_num_threads(threads)  # MKL has one number for all threads


def _share_of_mixed(names: torch.Tensor) -> float:
    return round(float((names < 0).double().mean()), 6)
