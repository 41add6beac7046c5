"""Where do images and heads lie that are alike? The layouts of the study, and how far each can be trusted.

Images lie by what pruning each head does to them (Sec. 5.1); heads of images by their attention (Sec. 5.4.1). A picture
that comes later finds its place in a layout that stays as it is.
"""

from collections.abc import Callable, Iterator

import numpy as np

from precompute.layout import layout, place
from precompute.map_quality import NEIGHBOURS, neighbours_kept, purity, seed_agreement, trustworthiness
from precompute.reduction import principal_axes
from precompute.unit import Arrays, Attrs, Unit

CLS_COMPONENTS = 50
# Heads of images among which one more image's heads are placed; of more, those of some images, drawn by the seed.
AMONG_CLS, AMONG_PATCH = 50_000, 200_000


def image_layouts(unit: Unit) -> tuple[Arrays, Attrs]:
    """A layout of the images for each of the study's vectors, float32 (vector, image, xy)."""
    study, placed, methods = unit.study, [], {}
    for done, vector in enumerate(study.vectors):
        unit.check()
        unit.progress(done, len(study.vectors))
        xy, methods[vector] = layout(_of_images(unit, vector), unit.seed, check=unit.check)
        placed.append(xy)
    unit.progress(len(study.vectors), len(study.vectors))
    return {"image_layout": np.stack(placed)}, {"layouts": methods}


def place_image(unit: Unit, arrays: Arrays) -> Arrays:
    """Where one more image lies among the study's, (vector, 1, xy)."""
    study, placed = unit.study, []
    for number, vector in enumerate(study.vectors):
        unit.check()
        is_metric = vector in study.metrics
        new = arrays["importance"][study.metric_index(vector)] if is_metric else arrays[vector]
        xy, method = study.read("image_layout", number), study.attrs["layouts"][vector]["method"]
        placed.append(place(_of_images(unit, vector), xy, new.reshape(1, -1), method, check=unit.check))
    return {"image_layout": np.stack(placed)}


def _of_images(unit: Unit, vector: str) -> np.ndarray:
    """One vector of each image over all heads, (image, head)."""
    study = unit.study
    is_metric = vector in study.metrics
    values = study.read("importance", study.metric_index(vector)) if is_metric else study.read(vector)
    return values.reshape(len(values), -1)


def cls_map(unit: Unit) -> tuple[Arrays, Attrs]:
    """All heads of all images by the attention from and to CLS: cls_layout, float32 (image, layer, head, xy)."""

    def blocks() -> Iterator[np.ndarray]:
        return unit.blocks("cls_vector", 20 * unit.study.sizes["cls_entry"])  # float32, and twice float64

    axes = principal_axes(blocks(), CLS_COMPONENTS)
    points = np.concatenate([axes.project(block) for block in blocks()])
    return _map(unit, points, "cls", {"components": CLS_COMPONENTS, "explained": axes.share})


def place_cls(unit: Unit, arrays: Arrays) -> Arrays:
    """Where the heads of one more image lie in the map of CLS attention, (1, layer, head, xy)."""
    images = _drawn(unit, AMONG_CLS)
    known = _by_head(unit.study.read("cls_vector", images))
    axes = principal_axes([known], CLS_COMPONENTS)
    return _place(unit, "cls", images, axes.project(known), axes.project(_by_head(arrays["cls_vector"])))


def patch_map(unit: Unit) -> tuple[Arrays, Attrs]:
    """All heads of all images by the autoencoder's latents: patch_layout, float32 (image, layer, head, xy)."""
    points = _by_head(unit.study.read("patch_latent"))
    return _map(unit, points, "patch", {"latent": points.shape[-1]})


def place_patch(unit: Unit, arrays: Arrays) -> Arrays:
    """Where the heads of one more image lie in the map of patch attention, (1, layer, head, xy)."""
    images = _drawn(unit, AMONG_PATCH)
    known = _by_head(unit.study.read("patch_latent", images))
    return _place(unit, "patch", images, known, _by_head(arrays["patch_latent"]))


def _map(unit: Unit, points: np.ndarray, name: str, settings: Attrs) -> tuple[Arrays, Attrs]:
    """The layout of all heads of all images, (head of image, dimension), and how far it can be trusted."""
    strata, sizes = _strata(unit), unit.study.sizes
    xy, method = layout(points, unit.seed, strata=strata, progress=_share(unit, 0, 2), check=unit.check)
    worth = _trust(unit, points, xy, strata)
    unit.progress(100, 100)
    places = xy.reshape(sizes["image"], sizes["layer"], sizes["head"], 2)
    return {f"{name}_layout": places}, {"maps": {name: settings | method | worth}}


def _trust(unit: Unit, points: np.ndarray, xy: np.ndarray, strata: np.ndarray) -> Attrs:
    """What a map is worth; None for each number where there are too few points to tell."""
    if np.isfinite(xy).all(axis=1).sum() <= 2 * NEIGHBOURS:
        return dict.fromkeys(("trustworthiness", "neighbours_kept", "seed_agreement", "purity"))
    return {
        "neighbours": NEIGHBOURS,
        "trustworthiness": trustworthiness(points, xy, seed=unit.seed),
        "neighbours_kept": neighbours_kept(points, xy, seed=unit.seed),
        "purity": purity(xy, strata, strata // unit.heads, seed=unit.seed),
        "seed_agreement": seed_agreement(
            points, xy, unit.seed, strata=strata, progress=_share(unit, 1, 2), check=unit.check
        ),
    }


def _strata(unit: Unit) -> np.ndarray:
    """The head that each point of a map is of: the same number for all images."""
    sizes = unit.study.sizes
    return np.tile(np.arange(sizes["layer"] * sizes["head"]), sizes["image"])


def _share(unit: Unit, part: int, parts: int) -> Callable[[int, int], None]:
    """Progress of one part of equal parts, in per cent of the whole."""
    return lambda done, of: unit.progress(100 * (part * of + done) // (parts * of), 100)


def _place(unit: Unit, name: str, images: list[int], known: np.ndarray, new: np.ndarray) -> Arrays:
    """Where the heads of one more image lie among those of some images."""
    sizes, method = unit.study.sizes, unit.study.attrs["maps"][name]["method"]
    xy = unit.study.read(f"{name}_layout", images).reshape(-1, 2)
    places = place(known, xy, new, method, check=unit.check)
    return {f"{name}_layout": places.reshape(1, sizes["layer"], sizes["head"], 2)}


def _drawn(unit: Unit, most: int) -> list[int]:
    """Images of which no more than so many heads are looked at, ascending; all, if these are no more."""
    sizes = unit.study.sizes
    wanted = max(1, most // (sizes["layer"] * sizes["head"]))
    if sizes["image"] <= wanted:
        return list(range(sizes["image"]))
    rng = np.random.default_rng(unit.seed)
    return sorted(rng.choice(sizes["image"], wanted, replace=False).tolist())


def _by_head(array: np.ndarray) -> np.ndarray:
    """Something of (image, layer, head), head by head of each image."""
    return array.reshape(-1, *array.shape[3:])
