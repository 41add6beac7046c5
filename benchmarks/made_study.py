"""How is the page with 50,000 images? In studies that are made, not computed: in the store's own format, in minutes.

The shape is DeiT-tiny's: 12 × 3 heads, 14 × 14 patches and CLS, pictures of 224 × 224, 1,000 classes. The residual
stream has 8 channels instead of 192, so that 50,000 images take 2.8 GB: attention is rebuilt from it as in every study,
and follows where things lie and what is seen there. Everything else is drawn at random around what each head and each
image is like: it agrees with itself, not with the attention. Left out is what the page does not read, and masks.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from analyses.vocabulary import CLS_PATTERNS, METRICS, PATCH_PATTERNS, TOP_CLASSES, VECTORS
from benchmarks.measuring import Table
from store.attempt import Attempt
from store.manifest import Manifest
from store.paths import study_path
from store.schema import SCHEMA

Arrays = dict[str, np.ndarray]

LAYERS, HEADS, HEAD_CHANNELS, CHANNELS = 12, 3, 64, 8
GRID = 14
PATCHES = GRID**2
SIDE, THUMBNAIL, GRAIN = 224, 96, 32
CLASSES = 1000
IMAGES_A_CLASS = 50  # as ImageNet's validation images have
UNIT_IMAGES = 50
MADE = "this study was made for measuring, not computed"
LEFT_OUT = ("logits", "cls_vector", "patch_mask", "patch_latent", "autoencoder")
OF_MASKS = ("object", "object_auc", "cls_object_auc")

MODEL = {
    "name": "made_tiny_patch16_224",
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "head_dim": HEAD_CHANNELS,
    "embed_dim": CHANNELS,
    "grid": [GRID, GRID],
    "num_prefix_tokens": 1,
    "has_cls": True,
    "pool": "token",
    "prefix_tokens": ["CLS"],
    "patch_size": [16, 16],
    "input_size": [SIDE, SIDE],
    "num_classes": CLASSES,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "norm1": {"kind": "layernorm", "eps": 1e-6},
    "qk_norm": None,
}


def made_table(images: int, data: Path, name: str) -> Table:
    """Make study `name` of the data folder, and say what of it takes how much of the disk.

    Raises:
        StoreError: As store.attempt.Attempt.start; a study that is there is replaced.
    """
    began = time.perf_counter()
    manifest = make_study(study_path(data / "studies", name), images)
    seconds = time.perf_counter() - began
    table = Table(
        f"A made study of {images:,} images",
        ("array", "objects", "MB"),
        notes=[f"Made in {seconds:.0f} s, {1e3 * seconds / images:.1f} ms an image."],
    )
    sizes: dict[str, list[int]] = {}
    for key, (size, _) in manifest.objects.items():
        sizes.setdefault(key.partition("/")[0] if "/" in key else "metadata", []).append(size)
    for array, found in sorted(sizes.items(), key=lambda each: -sum(each[1])):
        table.rows.append((array, f"{len(found):,}", f"{sum(found) / 1e6:.1f}"))
    table.rows.append(("all", f"{len(manifest.objects):,}", f"{manifest.size / 1e6:.1f}"))
    return table


@dataclass(frozen=True)
class Heads:
    """What each head is like, (layer, head) or more; every image has it more or less.

    Attributes:
        importance: By metric, (metric, layer, head).
        reach: Hops over which its attention fades.
        place: On the maps of patterns and of CLS patterns, (2, layer, head, xy).
        pattern, cls_pattern: Which it has most.
    """

    importance: np.ndarray
    reach: np.ndarray
    place: np.ndarray
    pattern: np.ndarray
    cls_pattern: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Heads":
        heads = (LAYERS, HEADS)
        scale = np.array([0.02, 0.02, 0.12, 0.15])[:, None, None]
        return cls(
            scale * rng.gamma(1, 1, (len(METRICS), *heads)),
            rng.uniform(0.6, 3, heads) * np.linspace(0.5, 4, LAYERS)[:, None],
            rng.normal(0, 30, (2, *heads, 2)),
            rng.integers(0, len(PATCH_PATTERNS), heads),
            rng.integers(0, len(CLS_PATTERNS), heads),
        )


def make_study(folder: Path, images: int, seed: int = 0) -> Manifest:
    """Publish a made study of that many images in `folder`. Equal arguments make equal studies."""
    rng = np.random.default_rng(seed)
    heads, weights = Heads.drawn(rng), _weights(rng)
    label = (np.arange(images) % min(CLASSES, max(5, images // IMAGES_A_CLASS))).astype(np.int32)
    start = weights | {
        "image": np.array([f"class {of:03}/image {number:06}.png" for number, of in enumerate(label)]),
        "image_sha256": np.array([f"{number:064x}" for number in range(images)]),
        "class": np.array([f"class {number:03}" for number in range(CLASSES)]),
        "metric": np.array(list(METRICS)),
        "vector": np.array(VECTORS),
        "label": label,
    }
    sample = of_images(heads, label[:1], range(1), seed)
    sizes = {
        dim: size
        for name, array in (start | sample).items()
        for dim, size in zip(SCHEMA[name].dims, array.shape, strict=True)
    }
    attempt = Attempt.start(
        folder,
        {"made": images, "seed": seed},
        sizes | {"image": images},
        _attributes(images),
        start,
        [*start, *sample],
        UNIT_IMAGES,
    )
    began = time.time()
    with attempt, typer.progressbar(attempt.pending(), label=f"{images:,} images") as units:
        for unit in units:
            numbers = attempt.units[unit]
            arrays = of_images(heads, label[numbers.start : numbers.stop], numbers, seed)
            attempt.write_unit(unit, arrays, _counted(arrays))
        attempt.gather()
        for stage, arrays in stages(heads, label, rng).items():
            attempt.write_stage(stage, arrays, {"seed": seed})
        seconds = time.time() - began
        run = {"headscope": "made", "images_per_second": images / seconds, "seconds": {"made": seconds}}
        return attempt.publish(_late_attributes(attempt.facts(), images, seed), run)


def of_images(heads: Heads, label: np.ndarray, numbers: range, seed: int) -> Arrays:
    """What a unit of images has, by array; image i is drawn from the seed and the unit's first number."""
    rng = np.random.default_rng([seed, numbers.start])
    n, lead = len(numbers), (len(numbers), LAYERS, HEADS)
    centre = rng.uniform(0.2, 0.8, (n, 2))
    colour = np.random.default_rng(CLASSES).integers(64, 256, (CLASSES, 3))[label]
    grain = rng.integers(0, 48, (n, GRAIN, GRAIN, 3))
    logits = rng.normal(0, 1, (n, CLASSES))
    logits[np.arange(n), label] += rng.normal(9, 3, n)
    probability = _softmax(logits)
    sure = probability[np.arange(n), label][:, None, None]
    pruned = np.clip(sure - heads.importance[0] * rng.gamma(1, 1, lead) + rng.normal(0, 0.01, lead), 0, 1)
    distances = heads.importance[1:, None] * rng.gamma(4, 0.25, (len(METRICS) - 1, *lead))
    best = np.argsort(-probability, axis=1)[:, :TOP_CLASSES]
    of_best = np.take_along_axis(probability, best, axis=1)[:, None, None] * rng.uniform(0.8, 1, (*lead, 1))
    strength, entropy = _strength(heads.reach * rng.lognormal(0, 0.3, lead))
    arrays = {
        "pixels": pictures(centre, colour, grain, SIDE),
        "thumbnail": pictures(centre, colour, grain, THUMBNAIL),
        "residual": residual(centre, label, rng),
        "target": label,
        "probability": probability,
        "importance": np.concatenate([(sure - pruned)[None], np.minimum(distances, 1)]),
        "pruned_probability": pruned,
        "pruned_top_class": np.broadcast_to(best[:, None, None], (*lead, TOP_CLASSES)),
        "pruned_top_probability": of_best,
        "strength": strength,
        "entropy": entropy,
    }
    return {name: arrays[name].astype(SCHEMA[name].dtype) for name in arrays}


def pictures(centre: np.ndarray, colour: np.ndarray, grain: np.ndarray, side: int) -> np.ndarray:
    """A disc of one colour before a grainy ground, uint8 (image, y, x, rgb)."""
    y, x = np.indices((side, side)) / side
    far = (y - centre[:, :1, None]) ** 2 + (x - centre[:, 1:, None]) ** 2
    ground = 48 + grain.repeat(side // GRAIN, axis=1).repeat(side // GRAIN, axis=2)
    return np.where((far < 0.04)[..., None], colour[:, None, None], ground).astype(np.uint8)


def residual(centre: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Residual streams, (image, depth, token, channel): where a patch lies, and more and more, what is seen there."""
    y, x = np.indices((GRID, GRID)).reshape(2, PATCHES) / GRID
    waves = [np.cos(np.pi * y), np.cos(np.pi * x), np.sin(2 * np.pi * y), np.sin(2 * np.pi * x)]
    place = np.zeros((1 + PATCHES, CHANNELS))
    place[1:, : len(waves)] = np.transpose(waves)
    place[0, -1] = 2  # CLS
    far = (y - centre[:, :1]) ** 2 + (x - centre[:, 1:]) ** 2
    covered = np.concatenate([np.full((len(centre), 1), 0.5), np.exp(-far / 0.03)], axis=1)
    meant = np.random.default_rng(CLASSES).normal(0, 1, (CLASSES, CHANNELS))[label]
    seen = covered[..., None] * meant[:, None] + rng.normal(0, 0.15, (len(centre), 1 + PATCHES, CHANNELS))
    return place + np.linspace(0.2, 2, LAYERS + 1)[:, None, None] * seen[:, None]


def stages(heads: Heads, label: np.ndarray, rng: np.random.Generator) -> dict[str, Arrays]:
    """What is known only with all images, by stage."""
    lead = (len(label), LAYERS, HEADS)
    classes = rng.normal(0, 40, (len(VECTORS), CLASSES, 2))[:, label]
    spread = np.linspace(1, 12, LAYERS)[:, None, None]
    places = [place + spread * rng.normal(size=(*lead, 2)) for place in heads.place]
    patterns, pattern = _scores(heads.pattern, len(PATCH_PATTERNS), lead, rng)
    cls_patterns, cls_pattern = _scores(heads.cls_pattern, len(CLS_PATTERNS), lead, rng)
    found: dict[str, Arrays] = {
        "layouts": {"image_layout": classes + rng.normal(0, 4, classes.shape)},
        "patterns": {
            "pattern": np.array(PATCH_PATTERNS),
            "cls_pattern": np.array(CLS_PATTERNS),
            "pattern_score": patterns,
            "pattern_name": pattern,
            "cls_pattern_score": cls_patterns,
            "cls_pattern_name": cls_pattern,
            "content_relevance": rng.uniform(0, 1, lead[1:]),
        },
        "patch-map": {"patch_layout": places[0]},
        "cls-map": {"cls_layout": places[1]},
    }
    return {
        stage: {
            name: array if SCHEMA[name].dtype == "string" else array.astype(SCHEMA[name].dtype)
            for name, array in arrays.items()
        }
        for stage, arrays in found.items()
    }


def _scores(most: np.ndarray, count: int, lead: tuple[int, ...], rng: np.random.Generator) -> tuple[Any, Any]:
    """Scores of `count` patterns, float32 (…, pattern), high for the pattern that a head has `most`; and the names."""
    scores = rng.random((*lead, count), np.float32) * np.float32(0.2)
    scores += np.float32(0.5) * (np.arange(count) == most[..., None]) * rng.random((*lead, 1), np.float32)
    return scores, np.where(scores.max(axis=-1) > 0.2, scores.argmax(axis=-1), -1)


def _strength(reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength by hop of attention that fades over `reach` hops, (…, hop), and its entropy."""
    strength = np.exp(-np.arange(GRID) / reach[..., None])
    share = strength / strength.sum(axis=-1, keepdims=True)
    entropy = -(share * np.log(np.maximum(share, 1e-30))).sum(axis=-1) / np.log(GRID)
    return strength / (8 * reach[..., None] ** 2), entropy


def _weights(rng: np.random.Generator) -> Arrays:
    """Heads whose keys are their queries, turned away from them more or less: from near patches to anywhere."""
    query = rng.normal(0, 0.5, (LAYERS, HEADS, HEAD_CHANNELS, CHANNELS))
    turned = rng.uniform(0, 1, (LAYERS, HEADS, 1, 1))
    key = np.sqrt(1 - turned) * query + np.sqrt(turned) * rng.normal(0, 0.5, query.shape)
    weights = {
        "norm1_weight": np.ones((LAYERS, CHANNELS)),
        "norm1_bias": np.zeros((LAYERS, CHANNELS)),
        "query_weight": query,
        "key_weight": key,
        "query_bias": np.zeros((LAYERS, HEADS, HEAD_CHANNELS)),
        "key_bias": np.zeros((LAYERS, HEADS, HEAD_CHANNELS)),
    }
    return {name: array.astype(np.float32) for name, array in weights.items()}


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def _counted(arrays: Arrays) -> dict[str, int]:
    """How many images of a unit are predicted rightly, and among the first five."""
    best = arrays["pruned_top_class"][:, 0, 0] == arrays["target"][:, None]
    return {"images": len(best), "top1": int(best[:, 0].sum()), "top5": int(best.any(axis=1).sum())}


def _attributes(images: int) -> dict[str, Any]:
    return {
        "model": MODEL,
        "weights": {"kind": "random", "file": None, "sha256": "0" * 64},
        "images": {
            "folder": "made",
            "fingerprint": "0" * 64,
            "found": images,
            "kept": images,
            "labelled": images,
            "quarantined": [],
        },
        "settings": {"precision": "float32", "attention": "rebuilt", "labels": "made", "device": "cpu"},
        "certificate": {"images": 0, "attention": 0.0, "logits": 0.0, "pruning": 0.0, "tolerance": 1e-3},
        "left_out": {
            **dict.fromkeys(LEFT_OUT, MADE),
            **dict.fromkeys(OF_MASKS, "no masks were made"),
            "attention": "it is rebuilt from the residual stream when it is read",
        },
    }


def _late_attributes(units: list[dict[str, Any]], images: int, seed: int) -> dict[str, Any]:
    right = {name: sum(unit[name] for unit in units) / images for name in ("top1", "top5")}
    return {
        "nonfinite": {"images": [], "values": {}},
        "accuracy": right | {"images": images, "near_chance": False},
        "layouts": {vector: {"method": "drawn by class", "seed": seed} for vector in VECTORS},
    }
