"""How does a study come to be? Images are read, the model is proved, units computed, layouts made, all published.

Each step says how far it is through `Progress`, and may be stopped between batches. Run again after a stop or a crash,
it goes on where it was: the images' verdicts are in a journal, the units in the store's attempt.
"""

import hashlib
import math
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from precompute import analysis as compute
from precompute.certificate import certify
from precompute.importance import TOP
from precompute.layout import layout
from precompute.model import ViT
from precompute.preprocess import class_names, seen_by, thumbnail, thumbnail_size
from precompute.weights import check_name, open_model
from store import paths, schema
from store.attempt import Attempt
from store.errors import DiskFullError, StudyNotFoundError
from store.manifest import Manifest
from store.settings import Settings
from workers.decode import Kept, Quarantined, load, scan
from workers.images import find_images, fingerprint
from workers.jobs import StudyRequest
from workers.labels import ClassNames, LabelError, match_labels, read_class_names

# stage, done, of how many, and what it is counted in
Progress = Callable[[str, int, int, str], None]

# A unit is meant to take at most a minute. What a slow machine does of importance's products, in operations a second:
# two CPU cores do 1.4e11 and an H200 more than 2e13 (docs/performance.md). Units must not depend on the speed of the
# day, or a resumed run would be cut otherwise than an undisturbed one.
UNIT_SECONDS = 60
SLOW = {"cpu": 4e10, "cuda": 5e12}
MOST_UNIT_IMAGES = 64

CERTIFICATE_IMAGES = 2
# A top-1 rate that guessing would reach once in a hundred tries is called near chance.
CHANCE_LEVEL = 0.01
# Attention in float16 behind Blosc's shuffle and zstd takes at least a sixth of itself on the models tried.
BEST_COMPRESSION = 6
PACKAGES = ("torch", "timm", "numpy", "zarr", "openTSNE", "scikit-learn", "pillow")


class StudyExistsError(ValueError):
    """A study of that name is published, made otherwise; it never changes."""


@dataclass(frozen=True)
class Price:
    """What a study costs, measured on its first unit."""

    images: int
    bytes: int
    seconds: float
    attention: str
    attention_bytes: int
    unit_images: int


@dataclass(frozen=True)
class Labels:
    """Class names, the class of each kept image (−1 unknown), and the rule by which it was found."""

    classes: tuple[str, ...]
    index: np.ndarray
    rule: str


@dataclass
class Prepared:
    """Everything known before the first unit."""

    request: StudyRequest
    study: Path
    vit: ViT
    kept: list[Kept]
    label: np.ndarray
    batch: compute.Batch  # halved when memory runs out
    unit_images: int
    attrs: dict[str, Any]
    sizes: dict[str, int]
    start: dict[str, np.ndarray]
    arrays: list[str]
    plan: dict[str, Any]
    seconds: dict[str, float]

    @property
    def attention(self) -> str:
        """ "stored" or "rebuilt"."""
        return str(self.attrs["settings"]["attention"])


def prepare(request: StudyRequest, settings: Settings, progress: Progress) -> Prepared:
    """Open the model, read the images, match the labels, prove the model. Nothing of the study is written yet.

    Raises:
        ValueError: Anything that the person can mend: the model, its weights, the images, their labels, the name.
        RuntimeError: the device is not there.
    """
    study = paths.study_path(settings.studies, request.study)
    check_name(request.model)
    device = _device(request.device)
    images = find_images(request.images, request.per_class)
    clock = _Clock()
    with clock("model"):
        progress("model", 0, 1, "model")
        vit, weights = open_model(
            request.model,
            checkpoint=request.checkpoint,
            random_seed=request.seed if request.random_weights else None,
            image_size=request.image_size,
            device=device,
        )
        progress("model", 1, 1, "model")
    with clock("images"):
        journal = settings.data / "scans" / f"{hashlib.sha256(str(images.source).encode()).hexdigest()[:16]}.jsonl"
        journal.parent.mkdir(parents=True, exist_ok=True)
        verdicts = scan(images.entries, journal, lambda done, of: progress("images", done, of, "images"))
    kept = [v for v in verdicts if isinstance(v, Kept)]
    quarantined = [v for v in verdicts if isinstance(v, Quarantined)]
    if not kept:
        first = quarantined[0]
        raise ValueError(
            f"none of the {len(quarantined)} pictures in {images.source} can be read; "
            f"the first, {first.id}: {first.reason}"
        )
    labels = _labels(request, vit, kept)
    with clock("certificate"):
        progress("certificate", 0, 1, "model")
        certificate = certify(vit, _pixels(vit, kept[:CERTIFICATE_IMAGES]))
        progress("certificate", 1, 1, "model")
    start = _known_at_start(vit, kept, labels)
    sizes = _sizes(vit, start)
    attention = _attention(request, settings, sizes)
    left_out = compute.left_out(vit)
    if attention == "rebuilt":
        left_out = left_out | {"attention": "it is rebuilt from the residual stream when it is read"}
    attrs = {
        "model": _described(vit),
        "weights": asdict(weights),
        "images": {
            "folder": images.source.name,
            "fingerprint": fingerprint((k.id, k.sha256) for k in kept),
            "found": len(verdicts),
            "kept": len(kept),
            "labelled": int((labels.index >= 0).sum()),
            "quarantined": [{"image": q.id, "reason": q.reason} for q in quarantined],
        },
        "settings": {
            "precision": "float32",
            "attention": attention,
            "seed": request.seed,
            "labels": labels.rule,
            "device": vit.device.type,
        },
        "certificate": certificate.as_dict(),
        "left_out": left_out,
    }
    batch = compute.batch_for(vit)
    unit_images = unit_size(vit, batch)
    plan = {
        **{key: attrs[key] for key in ("model", "weights", "images", "settings")},
        "labels": hashlib.sha256(labels.index.tobytes() + "\0".join(labels.classes).encode()).hexdigest(),
        "batch": [batch.images, batch.chunk, unit_images],
        "packages": _versions(),
        "schema": schema.VERSION,
    }
    computed = [n for n, spec in schema.SCHEMA.items() if spec.written != "start" and n not in left_out]
    return Prepared(
        request,
        study,
        vit,
        kept,
        labels.index,
        batch,
        unit_images,
        attrs,
        sizes,
        start,
        [*start, *computed],
        plan,
        clock.seconds,
    )


def _known_at_start(vit: ViT, kept: Sequence[Kept], labels: Labels) -> dict[str, np.ndarray]:
    """The arrays that need no computing, by name."""
    metrics = compute.metrics_of(vit)
    vectors = (("pruned_probability",) if "probability" in metrics else ()) + metrics
    start = {name: tensor.numpy() for name, tensor in vit.rebuild_weights().items()}
    start |= {
        "image": _text([k.id for k in kept]),
        "image_sha256": _text([k.sha256 for k in kept]),
        "metric": _text(metrics),
        "vector": _text(vectors),
        "label": labels.index,
    }
    return start | ({"class": _text(labels.classes)} if labels.classes else {})


def published(prepared: Prepared) -> Manifest | None:
    """The study's manifest, if these very settings published it already.

    Raises:
        StudyExistsError: it is published with other settings or images.
    """
    try:
        manifest = Manifest.load(prepared.study)
    except StudyNotFoundError:
        return None
    if manifest.run.get("plan") != _plan_hash(prepared):
        name = prepared.study.name
        raise StudyExistsError(
            f"study {name} is published already, made with another model, images or settings, and a published study "
            f"never changes; give --name OTHER, or remove it with `headscope rm {name}`"
        )
    return manifest


def price(prepared: Prepared, progress: Progress, check: Callable[[], None]) -> Price:
    """What the study would cost: the first unit is computed and written for real, in a folder that is then removed."""
    refuse_small_disk(prepared)
    parent = prepared.study.parent
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".price-", dir=parent))
    try:
        with _started(prepared, scratch / prepared.study.name) as attempt:
            _unit(prepared, attempt, 0, check)
            progress("heads", len(attempt.units[0]), len(prepared.kept), "images")
            return _price(prepared, attempt)
    finally:
        shutil.rmtree(scratch)


def run(
    prepared: Prepared, progress: Progress, tell_price: Callable[[Price], None], check: Callable[[], None]
) -> Manifest:
    """Compute what is missing of the study, and publish it.

    Args:
        tell_price: Called once the first unit is there.
        check: Called between batches; it may raise, to stop: what is finished is kept.
    Raises:
        StudyBusyError: Another process is computing this study.
        DiskFullError: There is no room for it; the message says how much is needed.
    """
    began = datetime.now(UTC)
    attempt = Attempt.unfinished(prepared.study, prepared.plan)
    if attempt is None:
        refuse_small_disk(prepared)
        attempt = _started(prepared, prepared.study)
    with attempt:
        done = len(prepared.kept) - sum(len(attempt.units[u]) for u in attempt.pending())
        progress("heads", done, len(prepared.kept), "images")
        for unit in attempt.pending():
            _unit(prepared, attempt, unit, check)
            done += len(attempt.units[unit])
            progress("heads", done, len(prepared.kept), "images")
            if len(attempt.facts()) == 1:
                first = _price(prepared, attempt)
                refuse_small_disk(prepared, first.bytes)
                tell_price(first)
        clock = _Clock(prepared.seconds)
        with clock("gather"):
            progress("gather", 0, 1, "arrays")
            attempt.gather()
            progress("gather", 1, 1, "arrays")
        with clock("layouts"):
            layouts = _layouts(prepared, attempt, progress, check)
        facts = attempt.facts()
        attrs = {
            "nonfinite": _nonfinite(attempt, facts),
            "accuracy": _accuracy(prepared, attempt),
            "layouts": layouts,
        }
        heads_seconds = sum(f["seconds"] for f in facts)
        progress("publish", 0, 1, "study")
        manifest = attempt.publish(
            attrs,
            {
                "headscope": version("headscope"),
                "packages": _versions(),
                "plan": _plan_hash(prepared),
                "began": began.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": {**clock.seconds, "heads": heads_seconds},
                "images_per_second": len(prepared.kept) / heads_seconds,
                "device": _device_name(prepared.vit.device),
                "threads": torch.get_num_threads(),
            },
        )
        progress("publish", 1, 1, "study")
        return manifest


def unit_size(vit: ViT, batch: compute.Batch) -> int:
    """Images in a unit: as many whole batches as a slow machine does in a minute. One image may take longer."""
    in_time = int(UNIT_SECONDS * SLOW[vit.device.type] / compute.importance_flops(vit))
    images = max(1, min(in_time, MOST_UNIT_IMAGES))
    return images // batch.images * batch.images or images


def refuse_small_disk(prepared: Prepared, needed: int | None = None) -> None:
    """Refuse a disk that cannot hold the study.

    Args:
        needed: Bytes of the whole study, once measured; without it the least that it can take.
    Raises:
        DiskFullError
    """
    folder = prepared.study
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed is None:
        nbytes = {n: _nbytes(n, prepared.sizes) for n in prepared.arrays}
        stored = nbytes.pop("attention", 0) // BEST_COMPRESSION + nbytes["residual"]
        needed, what = stored, "at least "
    else:
        written = sum(f.stat().st_size for f in prepared.study.rglob("*") if f.is_file())
        needed, what = max(0, needed - written), "about "
    if needed > free:
        raise DiskFullError(
            f"the study needs {what}{needed / 1e6:,.0f} MB and {folder} has {free / 1e6:,.0f} MB free; make room, set "
            "HEADSCOPE_DATA to a larger disk, use --attention rebuilt, or take fewer images (--per-class)"
        )


def _started(prepared: Prepared, study: Path) -> Attempt:
    return Attempt.start(
        study, prepared.plan, prepared.sizes, prepared.attrs, prepared.start, prepared.arrays, prepared.unit_images
    )


def _unit(prepared: Prepared, attempt: Attempt, unit: int, check: Callable[[], None]) -> None:
    """Compute and write one unit."""
    began = time.perf_counter()
    images = attempt.units[unit]
    check()
    pixels = _pixels(prepared.vit, prepared.kept[images.start : images.stop])
    arrays, prepared.batch = compute.analysis(
        prepared.vit,
        pixels,
        prepared.label[images.start : images.stop],
        prepared.batch,
        keep_attention=prepared.attention == "stored",
        check=check,
    )
    size = thumbnail_size(prepared.vit)
    arrays |= {"pixels": pixels, "thumbnail": np.stack([thumbnail(p, size) for p in pixels])}
    facts = {"images": len(images), "nonfinite": _where_nonfinite(arrays, images)}
    # The batch is not a fact of the unit: equal units must give equal bytes.
    attempt.write_unit(unit, arrays, facts | {"seconds": time.perf_counter() - began})


def _pixels(vit: ViT, pictures: Sequence[Kept]) -> np.ndarray:
    """What the model sees of some pictures, uint8 (image, y, x, rgb)."""
    see = seen_by(vit)
    return np.stack([see(load(picture)) for picture in pictures])


def _where_nonfinite(arrays: dict[str, np.ndarray], images: range) -> dict[str, list[int]]:
    """Images with a NaN or Inf, by array."""
    found = {}
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            by_image = np.moveaxis(array, schema.SCHEMA[name].image_axis or 0, 0).reshape(len(images), -1)
            bad = ~np.isfinite(by_image.sum(axis=1, dtype=np.float64))
            if bad.any():
                found[name] = [images[i] for i in np.flatnonzero(bad)]
    return found


def _nonfinite(attempt: Attempt, facts: list[dict[str, Any]]) -> dict[str, Any]:
    """All images with a NaN or Inf, and how many of them in each array."""
    counts: Counter[str] = Counter()
    images: set[int] = set()
    for fact in facts:
        for name, where in fact["nonfinite"].items():
            counts[name] += len(where)
            images |= set(where)
    return {"images": sorted(images), "values": dict(sorted(counts.items()))}


def _accuracy(prepared: Prepared, attempt: Attempt) -> dict[str, Any] | None:
    """Top-1 and top-5 on the labelled images, and whether guessing would do as well."""
    known = prepared.label >= 0
    if not known.any() or not prepared.vit.num_classes:
        return None
    label, logits = prepared.label[known], attempt.gathered("logits")[known]
    above = (logits > logits[np.arange(len(label)), label][:, None]).sum(axis=1)
    top1 = int((above < 1).sum())
    chance = binomtest(top1, len(label), 1 / logits.shape[1], alternative="greater").pvalue
    return {
        "top1": top1 / len(label),
        "top5": float((above < 5).mean()),
        "images": len(label),
        "near_chance": bool(chance > CHANCE_LEVEL),
    }


def _layouts(
    prepared: Prepared, attempt: Attempt, progress: Progress, check: Callable[[], None]
) -> dict[str, dict[str, object]]:
    """Write image_layout; return how each was made."""
    vectors = [str(v) for v in prepared.start["vector"]]
    metrics = [str(m) for m in prepared.start["metric"]]
    importance = attempt.gathered("importance")
    placed, made = [], {}
    for done, vector in enumerate(vectors):
        check()
        progress("layouts", done, len(vectors), "layouts")
        values = (
            attempt.gathered(vector) if vector == "pruned_probability" else importance[metrics.index(vector)]
        ).reshape(len(prepared.kept), -1)
        xy, made[vector] = layout(values, prepared.request.seed)
        placed.append(xy)
    attempt.write("image_layout", np.stack(placed))
    progress("layouts", len(vectors), len(vectors), "layouts")
    return made


def _price(prepared: Prepared, attempt: Attempt) -> Price:
    """Of the whole study, from what the attempt's first unit took."""
    count, first = len(prepared.kept), len(attempt.units[0])
    once = {n for n in prepared.arrays if schema.SCHEMA[n].written != "unit"}
    whole = sum(_nbytes(n, prepared.sizes) for n in once)
    by_array = {
        n: sum(f.stat().st_size for f in (attempt.path / n).rglob("c*") if f.is_file())
        for n in prepared.arrays
        if n not in once
    }
    attention = by_array.get("attention", 0) * count // first
    return Price(
        images=count,
        bytes=whole + sum(by_array.values()) * count // first,
        seconds=attempt.facts()[0]["seconds"] / first * count,
        attention=prepared.attention,
        attention_bytes=attention,
        unit_images=prepared.unit_images,
    )


def _labels(request: StudyRequest, vit: ViT, kept: Sequence[Kept]) -> Labels:
    """What is known of each image's class.

    Without a classifier nothing is predicted, so nothing needs matching: the folders themselves are the classes.
    """
    given = [None if request.no_labels else k.label for k in kept]
    if not vit.num_classes:
        folders = sorted({label for label in given if label is not None})
        index = [folders.index(label) if label is not None else -1 for label in given]
        return Labels(tuple(folders), np.array(index, dtype=np.int32), "folders" if folders else "no labels")
    classes = _class_names(request, vit)
    match = match_labels(given, classes, None if request.no_labels else request.label_map)
    return Labels(classes.names, match.index, match.rule)


def _class_names(request: StudyRequest, vit: ViT) -> ClassNames:
    if request.classes is not None:
        names = read_class_names(request.classes)
        if len(names) != vit.num_classes:
            raise LabelError(f"{request.classes} names {len(names)} classes; {vit.name} here has {vit.num_classes}")
        return ClassNames(names)
    known = class_names(vit)
    if known is None:
        return ClassNames(tuple(f"class {i}" for i in range(vit.num_classes)))
    return ClassNames(*known)


def _sizes(vit: ViT, start: dict[str, np.ndarray]) -> dict[str, int]:
    """Size of every dimension that the study has."""
    height, width = vit.input_size
    thumb_height, thumb_width = thumbnail_size(vit)
    sizes = {
        "image": len(start["image"]),
        "y": height,
        "x": width,
        "thumb_y": thumb_height,
        "thumb_x": thumb_width,
        "metric": len(start["metric"]),
        "vector": len(start["vector"]),
        "layer": vit.num_layers,
        "head": vit.num_heads,
        "token": vit.num_tokens,
        "channel": vit.embed_dim,
        "head_channel": vit.head_dim,
        "hop": max(vit.grid),
        "cls_entry": 2 * vit.num_patches + 1,
        "mask_byte": -(-(vit.num_patches**2) // 8),
    }
    if "class" in start:
        sizes |= {"class": len(start["class"]), "rank": min(TOP, len(start["class"]))}
    return schema.all_sizes(sizes)


def _attention(request: StudyRequest, settings: Settings, sizes: dict[str, int]) -> str:
    """Whether the attention matrices are stored, or rebuilt when read."""
    if request.attention != "auto":
        return request.attention
    size = _nbytes("attention", sizes)
    return "stored" if size <= settings.attention_limit_gb * 1e9 else "rebuilt"


def _described(vit: ViT) -> dict[str, Any]:
    """The model, in plain JSON."""
    config = vit.preprocessing
    return {
        "name": vit.name,
        "num_layers": vit.num_layers,
        "num_heads": vit.num_heads,
        "head_dim": vit.head_dim,
        "embed_dim": vit.embed_dim,
        "grid": list(vit.grid),
        "num_prefix_tokens": vit.num_prefix_tokens,
        "prefix_tokens": vit.prefix_tokens,
        "has_cls": vit.has_cls,
        "pool": vit.pool,
        "patch_size": list(vit.patch_size),
        "input_size": list(vit.input_size),
        "num_classes": vit.num_classes,
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"],
        "norm1": vit.norm1,
        "qk_norm": vit.qk_norm,
    }


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("--device cuda, but torch sees no GPU here; use --device cpu, or auto")
    return wanted


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def _versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


def _plan_hash(prepared: Prepared) -> str:
    return hashlib.sha256(repr(sorted(prepared.plan.items())).encode()).hexdigest()


def _nbytes(name: str, sizes: dict[str, int]) -> int:
    """Bytes of an array before compression; 0 for text."""
    spec = schema.SCHEMA[name]
    return 0 if spec.dtype == "string" else math.prod(schema.shape(spec, sizes)) * np.dtype(spec.dtype).itemsize


def _text(values: Sequence[str]) -> np.ndarray:
    return np.array(values, dtype=object)


class _Clock:
    """Seconds of each step, by name."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = seconds or {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - began, 3)
