"""A small study with plausible numbers, written as the pipeline writes one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from store.attempt import Attempt
from store.manifest import Manifest
from store.schema import SCHEMA

Arrays = dict[str, np.ndarray]
RUN = {
    "headscope": "0.1.0",
    "packages": {"numpy": np.__version__},
    "plan": "2" * 64,
    "began": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:00:02+00:00",
    "seconds": {"heads": 1.5},
    "images_per_second": 3.3,
    "device": "cpu",
    "threads": 1,
}
METRICS = ["probability", "jsd", "cls_distance", "patch_distance"]
WEIGHTS = (
    *("norm1_weight", "norm1_bias", "query_weight", "key_weight", "query_bias", "key_bias"),
    *("query_norm_weight", "query_norm_bias", "key_norm_weight", "key_norm_bias"),
)


@dataclass(frozen=True)
class TinyStudy:
    """Everything that is written, by name, whole."""

    plan: dict[str, Any]
    sizes: dict[str, int]
    attrs: dict[str, Any]
    arrays: Arrays
    unit_images: int
    late_attrs: dict[str, Any] = field(default_factory=dict)

    def written(self, when: str) -> Arrays:
        """The arrays that the table says are written then."""
        return {name: array for name, array in self.arrays.items() if SCHEMA[name].written == when}

    def of_units(self) -> list[str]:
        """The arrays that do not belong to a stage."""
        return [name for name in self.arrays if SCHEMA[name].written != "end"]

    def stages(self) -> dict[str, Arrays]:
        """The arrays of each stage: here, of each array, a stage."""
        return {name.replace("_", "-"): {name: array} for name, array in self.written("end").items()}

    def unit(self, images: range) -> Arrays:
        """What one unit writes."""
        whole = self.written("unit") | self.written("gathered")
        return {
            name: array[(slice(None),) * SCHEMA[name].image_axis + (slice(images.start, images.stop),)]
            for name, array in whole.items()
        }


def write_tiny_study(folder: Path, **changes: Any) -> Path:
    """Publish `tiny_study(**changes)` as the study in `folder`, and return that folder."""
    compute(folder, tiny_study(**changes))
    return folder


def compute(study: Path, tiny: TinyStudy) -> Manifest:
    """Write `tiny` as the pipeline does, from where an earlier call was interrupted."""
    attempt = Attempt.unfinished(study, tiny.plan) or Attempt.start(
        study, tiny.plan, tiny.sizes, tiny.attrs, tiny.written("start"), tiny.of_units(), tiny.unit_images
    )
    with attempt:
        for unit in attempt.pending():
            images = attempt.units[unit]
            attempt.write_unit(unit, tiny.unit(images), {"images": len(images)})
        attempt.gather()
        for stage, arrays in tiny.stages().items():
            attempt.write_stage(stage, arrays, {"seed": 0})
        return attempt.publish(tiny.late_attrs, RUN)


def tiny_study(
    images: int = 5,
    layers: int = 2,
    heads: int = 2,
    head_dim: int = 4,
    grid: tuple[int, int] = (3, 3),
    prefix: int = 1,
    has_cls: bool = True,
    classes: int = 6,
    labelled: int = 4,
    attention: str = "stored",
    qk_norm: str | None = None,
    unit_images: int = 2,
    seed: int = 0,
    maps: bool = True,
) -> TinyStudy:
    """Random weights and a random residual stream, with true attention, strength, masks and distributions of them.

    Args:
        prefix: Prefix tokens; the first is CLS, if `has_cls`.
        classes: Of the classifier; 0 for a model without one.
        labelled: How many of the images have a label.
        attention: "stored" or "rebuilt".
        qk_norm: None, "layernorm" or "rmsnorm".
        maps: Whether the stages of attention patterns are in it; every second image has a mask.
    """
    rng = np.random.default_rng(seed)
    patches, embed_dim = grid[0] * grid[1], heads * head_dim
    tokens, patch = prefix + patches, 4
    model = {
        "name": "vit_tiny_test",
        "num_layers": layers,
        "num_heads": heads,
        "head_dim": head_dim,
        "embed_dim": embed_dim,
        "grid": list(grid),
        "num_prefix_tokens": prefix,
        "has_cls": has_cls,
        "pool": "token" if has_cls else "avg",
        "prefix_tokens": [*["CLS"] * has_cls, *(f"register {i + 1}" for i in range(prefix - has_cls))],
        "patch_size": [patch, patch],
        "input_size": [patch * grid[0], patch * grid[1]],
        "num_classes": classes,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "norm1": {"kind": "layernorm", "eps": 1e-6},
        "qk_norm": qk_norm and {"kind": qk_norm, "eps": 1e-6},
    }
    arrays = _labels(images, classes, labelled, has_cls)
    arrays |= _weights(rng, layers, heads, head_dim, embed_dim, qk_norm)
    resid = np.cumsum(rng.normal(size=(images, layers + 1, tokens, embed_dim)), axis=1).astype(np.float16)
    arrays["residual"] = resid
    exact = np.stack([attention_of(model, arrays, resid[:, layer], layer) for layer in range(layers)], axis=1)
    if attention == "stored":
        arrays["attention"] = exact.astype(np.float16)
    arrays |= _patterns(exact, prefix, has_cls) | _strength(exact[..., prefix:, prefix:], grid)
    arrays |= _pictures(rng, images, grid, patch)
    if classes:
        arrays |= _importance(rng, arrays["label"], images, layers, heads, classes)
    distances = rng.uniform(0, 0.3, size=(1 + has_cls, images, layers, heads)).astype(np.float32)
    arrays["importance"] = np.concatenate([arrays.pop("model_importance", distances[:0]), distances])
    arrays["image_layout"] = rng.normal(size=(len(arrays["vector"]), images, 2)).astype(np.float32)
    if maps:
        arrays |= _maps(rng, images, layers, heads, patches, has_cls)
    attrs = {
        "model": model,
        "weights": {"kind": "random", "file": None, "sha256": "0" * 64},
        "images": {
            "folder": "pictures",
            "fingerprint": "1" * 64,
            "found": images + 1,
            "kept": images,
            "labelled": labelled,
            "quarantined": [{"image": "broken.png", "reason": "cut short"}],
        },
        "settings": {"precision": "float32", "attention": attention, "seed": seed, "labels": "given", "device": "cpu"},
        "certificate": {"images": 2, "attention": 1e-7, "logits": 2e-7, "pruning": 3e-7, "tolerance": 1e-4},
        "left_out": _left_out(classes, has_cls, attention, maps),
    }
    late_attrs = {
        "nonfinite": {"images": [], "values": {}},
        "accuracy": {"top1": 0.5, "top5": 1.0, "images": labelled, "near_chance": False} if classes else None,
        "layouts": {str(vector): {"method": "random", "seed": seed} for vector in arrays["vector"]},
        **({"maps": _map_facts(layers, has_cls)} if maps else {}),
    }
    arrays = {name: arrays[name] for name in SCHEMA if name in arrays}
    return TinyStudy({"seed": seed, "model": model["name"]}, _sizes(arrays), attrs, arrays, unit_images, late_attrs)


def attention_of(model: dict[str, Any], arrays: Arrays, resid: np.ndarray, layer: int) -> np.ndarray:
    """Attention of all heads of a layer, (…, head, query, key), in float64, by the plain formulas."""
    normed = _layer_norm(resid.astype(np.float64), model["norm1"]["eps"])
    normed = normed * arrays["norm1_weight"][layer] + arrays["norm1_bias"][layer]
    sides = {}
    for side in ("query", "key"):
        each = np.einsum("...tc,hdc->...htd", normed, arrays[f"{side}_weight"][layer].astype(np.float64))
        each += arrays[f"{side}_bias"][layer][:, None]
        if model["qk_norm"]:
            eps = model["qk_norm"]["eps"]
            if model["qk_norm"]["kind"] == "layernorm":
                each = _layer_norm(each, eps)
            else:
                each = each / np.sqrt((each**2).mean(axis=-1, keepdims=True) + eps)
            each = each * arrays[f"{side}_norm_weight"][layer] + arrays[f"{side}_norm_bias"][layer]
        sides[side] = each
    return _softmax(sides["query"] @ np.swapaxes(sides["key"], -1, -2) / np.sqrt(model["head_dim"]))


def _layer_norm(values: np.ndarray, eps: float) -> np.ndarray:
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def _labels(images: int, classes: int, labelled: int, has_cls: bool) -> Arrays:
    names = [f"class {number}" for number in range(classes)]
    metrics = METRICS[:2] * bool(classes) + METRICS[2:3] * has_cls + METRICS[3:]
    label = np.full(images, -1, np.int32)
    if classes:
        label[:labelled] = np.arange(min(labelled, images)) % classes
    return {
        "image": np.array([f"set/photo {number:03}.png" for number in range(images)]),
        "image_sha256": np.array([f"{number:064x}" for number in range(images)]),
        **({"class": np.array(names)} if classes else {}),
        "metric": np.array(metrics),
        "vector": np.array(["pruned_probability", *metrics] if classes else metrics),
        "label": label,
    }


def _weights(
    rng: np.random.Generator, layers: int, heads: int, head_dim: int, embed_dim: int, qk_norm: str | None
) -> Arrays:
    shapes = {
        "norm1": (layers, embed_dim),
        "query": (layers, heads, head_dim, embed_dim),
        "key": (layers, heads, head_dim, embed_dim),
        **({"query_norm": (layers, head_dim), "key_norm": (layers, head_dim)} if qk_norm else {}),
    }
    arrays = {}
    for name, shape in shapes.items():
        scale = 1 if name.endswith("norm") or name == "norm1" else 2 / np.sqrt(embed_dim)
        bias_shape = shape if len(shape) == 2 else shape[:3]
        arrays[f"{name}_weight"] = rng.normal(0, scale, shape).astype(np.float32)
        arrays[f"{name}_bias"] = rng.normal(0, 0.1, bias_shape).astype(np.float32)
    return arrays


def _patterns(attention: np.ndarray, prefix: int, has_cls: bool) -> Arrays:
    between = attention[..., prefix:, prefix:].reshape(*attention.shape[:3], -1)
    top = np.argsort(-between, axis=-1, kind="stable")[..., : -(-between.shape[-1] // 100)]
    mask = np.zeros(between.shape, bool)
    np.put_along_axis(mask, top, True, axis=-1)
    arrays = {"patch_mask": np.packbits(mask, axis=-1)}
    if has_cls:
        parts = [attention[..., 0, :1], attention[..., 0, prefix:], attention[..., prefix:, 0]]
        arrays["cls_vector"] = np.concatenate(parts, axis=-1).astype(np.float32)
    return arrays


def _strength(attention: np.ndarray, grid: tuple[int, int]) -> Arrays:
    y, x = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    hop = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x))
    strength = []
    for ring in (hop == k for k in range(max(grid))):
        has = ring.any(axis=1)
        strength.append(((attention * ring).sum(axis=-1)[..., has] / ring.sum(axis=1)[has]).mean(axis=-1))
    s = np.stack(strength, axis=-1)
    share = s / s.sum(axis=-1, keepdims=True)
    entropy = -(share * np.log(share)).sum(axis=-1) / np.log(max(grid))
    return {"strength": s.astype(np.float32), "entropy": entropy.astype(np.float32)}


def _pictures(rng: np.random.Generator, images: int, grid: tuple[int, int], patch: int) -> Arrays:
    """Gradients with a bright square, so that every picture is another and none is noise."""
    rows, columns = grid[0] * patch, grid[1] * patch
    ramp = np.linspace(0, 120, rows)[:, None, None] + np.linspace(0, 60, columns)[None, :, None]
    pixels = np.repeat((ramp * np.array([1, 0.7, 0.4]))[None], images, axis=0)
    for number in range(images):
        top, left = rng.integers(0, rows - patch), rng.integers(0, columns - patch)
        pixels[number, top : top + patch, left : left + patch] = rng.integers(128, 256, 3)
    pixels = pixels.astype(np.uint8)
    return {"pixels": pixels, "thumbnail": np.ascontiguousarray(pixels[:, ::2, ::2])}


def _importance(
    rng: np.random.Generator, label: np.ndarray, images: int, layers: int, heads: int, classes: int
) -> Arrays:
    logits = rng.normal(0, 2, (images, classes))
    target = np.where(label >= 0, label, logits.argmax(axis=1))
    probability = _softmax(logits)
    pruned = _softmax(logits[:, None, None] + rng.normal(0, 0.5, (images, layers, heads, classes)))
    whole = np.broadcast_to(probability[:, None, None], pruned.shape)
    middle = (whole + pruned) / 2
    jsd = 0.5 * sum((p * np.log2(p / middle)).sum(axis=-1) for p in (whole, pruned))
    pruned_target = np.take_along_axis(pruned, target[:, None, None, None], axis=-1)[..., 0]
    change = np.take_along_axis(whole, target[:, None, None, None], axis=-1)[..., 0] - pruned_target
    best = np.argsort(-pruned, axis=-1)[..., : min(5, classes)]
    arrays = {
        "logits": logits,
        "probability": probability,
        "model_importance": np.stack([change, jsd]),
        "pruned_probability": pruned_target,
        "pruned_top_probability": np.take_along_axis(pruned, best, axis=-1),
    }
    integers = {"target": target, "pruned_top_class": best}
    return {name: array.astype(np.float32) for name, array in arrays.items()} | {
        name: array.astype(np.int32) for name, array in integers.items()
    }


PATTERNS = (
    *("self", "left", "right", "above", "below", "several above", "several below", "several above and below"),
    *("mirrored", "before", "after", "vertical", "block"),
)
CLS_PATTERNS = ("CLS to CLS", "patches to CLS", "CLS to few patches")
CLS_MAP = ("cls_pattern", "cls_pattern_score", "cls_pattern_name", "cls_layout", "cls_object_auc")
STAGE_ARRAYS = (
    *("pattern", "pattern_score", "pattern_name", "content_relevance", "object", "object_auc"),
    *("autoencoder", "patch_latent", "patch_layout"),
    *CLS_MAP,
)


def _maps(rng: np.random.Generator, images: int, layers: int, heads: int, patches: int, has_cls: bool) -> Arrays:
    """Heads that keep their pattern and their place from image to image, more or less: the later, the less."""
    lead = (images, layers, heads)
    places = rng.normal(0, 20, (layers, heads, 2))
    spread = np.linspace(0.5, 15, layers)[:, None, None]
    covered = rng.uniform(size=(images, patches)).astype(np.float32)
    covered[1::2] = np.nan
    arrays = {
        "pattern": np.array(PATTERNS),
        "pattern_score": rng.uniform(size=(*lead, len(PATTERNS))).astype(np.float32),
        "pattern_name": rng.integers(-1, len(PATTERNS), lead).astype(np.int8),
        "content_relevance": rng.uniform(size=lead[1:]).astype(np.float32),
        "object": covered,
        "object_auc": rng.uniform(size=lead).astype(np.float32),
        "autoencoder": rng.normal(size=50).astype(np.float32),
        "patch_latent": rng.normal(size=(*lead, 4)).astype(np.float32),
        "patch_layout": (places + spread * rng.normal(size=(*lead, 2))).astype(np.float32),
    }
    arrays["object_auc"][1::2] = np.nan
    if has_cls:
        arrays |= {
            "cls_pattern": np.array(CLS_PATTERNS),
            "cls_pattern_score": rng.uniform(size=(*lead, len(CLS_PATTERNS))).astype(np.float32),
            "cls_pattern_name": rng.integers(-1, len(CLS_PATTERNS), lead).astype(np.int8),
            "cls_object_auc": arrays["object_auc"][::1] / 2,
            "cls_layout": (places[::-1] + spread * rng.normal(size=(*lead, 2))).astype(np.float32),
        }
    return arrays


def _map_facts(layers: int, has_cls: bool) -> dict[str, Any]:
    facts = {
        "method": "random",
        "seed": 0,
        "trustworthiness": 0.97,
        "neighbours_kept": 0.5,
        "seed_agreement": 0.6,
        "purity": {"layer": [0.9] * layers, "all": 0.9, "chance": 0.1},
    }
    autoencoder = {"epochs": 2, "loss": {"train": [0.3, 0.1], "held_out": [0.3, 0.2]}}
    maps: dict[str, Any] = {"patch": facts | {"autoencoder": autoencoder}}
    return maps | ({"cls": facts} if has_cls else {})


def _left_out(classes: int, has_cls: bool, attention: str, maps: bool) -> dict[str, str]:
    reasons = {}
    if not maps:
        reasons |= dict.fromkeys(STAGE_ARRAYS, "left out with --skip patterns")
    if not classes:
        reasons |= dict.fromkeys(["probability", "jsd", "pruned_probability"], "the model has no classifier")
    if not has_cls:
        reasons |= dict.fromkeys(["cls_distance", "cls_vector", *CLS_MAP], "the model has no class token")
    if attention == "rebuilt":
        reasons["attention"] = "it is rebuilt when it is read"
    return reasons


def _sizes(arrays: Arrays) -> dict[str, int]:
    return {
        dim: size for name, array in arrays.items() for dim, size in zip(SCHEMA[name].dims, array.shape, strict=True)
    }
