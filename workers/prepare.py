"""What is known before a study's first unit? Its model, proved; its images, decoded once; its labels, matched.

From this follow the study's arrays and sizes, its attributes, and the plan by which a later run knows that it is the
same run and goes on where it stopped.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.vocabulary import CLS_PATTERNS, NAMED_CLASSES, PATCH_PATTERNS, TOP_CLASSES
from jobs.requests import StudyRequest
from precompute import analysis
from precompute.autoencoder import LATENT, num_parameters
from precompute.certificate import certify
from precompute.checkpoint import kind_of_weights
from precompute.model import ViT
from precompute.names import check_name
from precompute.outputs import named_classes, subset_of
from precompute.preprocess import seen_by, thumbnail_size
from precompute.provenance import PREPROCESSING, Choices
from precompute.weights import Weights, open_model
from store import paths, schema
from store.settings import Settings
from workers.copies import copies_of
from workers.decode import DecodedImage, Quarantined, load, scan
from workers.images import ImageSet, ImageSourceError, find_images, fingerprint
from workers.labels import ClassNames, LabelError, match_labels, own_classes, read_class_names
from workers.masks import Masks, object_shares

# stage, done, of how many, and what it is counted in
Progress = Callable[[str, int, int, str], None]

# A unit is to take at most a minute on a machine that does so many of importance's operations a second: less than
# a third of what two CPU cores do, a fifth of the float32 peak of a data-centre GPU. It must not depend on the speed of
# the day, or a resumed run would be cut otherwise than an undisturbed one.
UNIT_SECONDS = 60
SLOW = {"cpu": 4e10, "cuda": 5e12}
MOST_UNIT_IMAGES = 64

CERTIFICATE_IMAGES = 2
MOST_PASSED_OVER = 20  # names of tensors that a study lists
MOST_IGNORED = 50  # of the files that are no pictures, those that a study names
PACKAGES = ("torch", "timm", "numpy", "zarr", "openTSNE", "scikit-learn", "pillow")


class DeviceError(ValueError):
    """The device that was asked for is not there."""


@dataclass(frozen=True)
class Labels:
    """Class names, the class of each kept image (−1 unknown), and the rule by which it was found."""

    classes: tuple[str, ...]
    index: np.ndarray
    rule: str
    hints: tuple[str, ...] = ()  # what may be wrong with the labels, and how to mend that


@dataclass
class Prepared:
    """Everything known before the first unit."""

    request: StudyRequest
    study: Path
    vit: ViT
    kept: list[DecodedImage]
    label: np.ndarray
    batch: analysis.Batch  # halved when memory runs out
    unit_images: int
    attrs: dict[str, Any]
    sizes: dict[str, int]
    start: dict[str, np.ndarray]
    arrays: list[str]
    plan: dict[str, Any]
    seconds: dict[str, float]
    masks: tuple[np.ndarray, Masks] | None

    @property
    def attention(self) -> str:
        """ "stored" or "rebuilt"."""
        return str(self.attrs["settings"]["attention"])

    def use_batch(self, images: int, chunk: int, unit_images: int) -> None:
        """Compute in the batches and units of a plan that was made where there may be another amount of memory."""
        self.batch = analysis.Batch(images, chunk)
        self.unit_images = unit_images
        self.plan["batch"] = [images, chunk, unit_images]


def prepare(request: StudyRequest, settings: Settings, progress: Progress) -> Prepared:
    """Open the model, read the images, match the labels, prove the model. Nothing of the study is written yet.

    Raises:
        ValueError: Anything that the person can mend: the model, its weights, the images, their labels, the name,
            the device; `workers.refusals.field_of` tells which.
    """
    study = paths.study_path(settings.studies, request.study)
    check_name(request.model)
    device = device_of(request.device)
    images = find_images(request.images, request.per_class)
    given = given_class_names(request)
    clock = Clock()
    with clock("model"):
        progress("model", 0, 1, "model")
        vit, weights = open_model(
            request.model,
            checkpoint=request.checkpoint,
            random_seed=request.seed if request.random_weights else None,
            image_size=request.image_size,
            device=device,
            choices=choices_of(request, given),
        )
        progress("model", 1, 1, "model")
    with clock("images"):
        journal = settings.data / "scans" / f"{hashlib.sha256(str(images.source).encode()).hexdigest()[:16]}.jsonl"
        journal.parent.mkdir(parents=True, exist_ok=True)
        verdicts = scan(images.entries, journal, lambda done, of: progress("images", done, of, "images"))
    kept = [v for v in verdicts if isinstance(v, DecodedImage)]
    quarantined = [v for v in verdicts if isinstance(v, Quarantined)]
    if not kept:
        first = quarantined[0]
        raise ImageSourceError(
            f"none of the {len(quarantined)} pictures in {images.source} can be read; "
            f"the first, {first.id}: {first.reason}"
        )
    labels = labels_of(request, vit, class_names_of(vit, weights, given), kept)
    masks = None
    if request.masks is not None and "patterns" not in request.skip:
        with clock("masks"):
            masks = object_shares(request.masks, kept, vit, lambda done, of: progress("masks", done, of, "images"))
    with clock("certificate"):
        progress("certificate", 0, 1, "model")
        certificate = certify(vit, seen_pixels(vit, kept[:CERTIFICATE_IMAGES]))
        progress("certificate", 1, 1, "model")
    start = known_at_start(vit, kept, labels)
    sizes = sizes_of(vit, start)
    attention = attention_of(request, settings, sizes)
    left_out = analysis.left_out(vit)
    if attention == "rebuilt":
        left_out = left_out | {"attention": "it is rebuilt from the residual stream when it is read"}
    attrs: dict[str, Any] = {
        "model": described(vit),
        "weights": weights.identity(),
        "made": how_made(vit, weights, labels, request),
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
    batch = analysis.batch_for(vit)
    unit_images = unit_size(vit, batch)
    plan = {
        **{key: attrs[key] for key in ("model", "weights", "images", "settings")},
        "labels": hashlib.sha256(labels.index.tobytes() + "\0".join(labels.classes).encode()).hexdigest(),
        "batch": [batch.images, batch.chunk, unit_images],
        "packages": versions(),
        "schema": schema.VERSION,
    }
    # What of `made` nothing else in a plan tells; only where it is not timm's, as plans of earlier versions go on.
    if "crop_mode" in weights.provenance.preprocessing:
        plan["crop_mode"] = vit.preprocessing["crop_mode"]
    if "positions" in weights.provenance.sources and "resampled" not in weights.provenance.sources["positions"]:
        plan["positions"] = weights.provenance.sources["positions"]
    attrs["images"] = attrs["images"] | remarks(images, kept, labels)  # not in the plan: nothing is computed of it
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
        masks,
    )


def remarks(images: ImageSet, kept: Sequence[DecodedImage], labels: Labels) -> dict[str, Any]:
    """Which images are there more than once, and which files of the folder are no pictures; only what there is."""
    found: dict[str, Any] = {}
    if copies := copies_of([k.id for k in kept], [k.sha256 for k in kept], labels.index):
        found["copies"] = copies
    if images.ignored:
        found["ignored"] = {"files": len(images.ignored), "first": list(images.ignored[:MOST_IGNORED])}
    return found


def unit_size(vit: ViT, batch: analysis.Batch) -> int:
    """Images in a unit: as many whole batches as a slow machine does in a minute. One image may take longer."""
    in_time = int(UNIT_SECONDS * SLOW[vit.device.type] / analysis.importance_flops(vit))
    images = max(1, min(in_time, MOST_UNIT_IMAGES))
    return images // batch.images * batch.images or images


def seen_pixels(vit: ViT, pictures: Sequence[DecodedImage]) -> np.ndarray:
    """What the model sees of some pictures, uint8 (image, y, x, rgb)."""
    see = seen_by(vit)
    return np.stack([see(load(picture)) for picture in pictures])


def nbytes(name: str, sizes: dict[str, int]) -> int:
    """Bytes of an array before compression; 0 for text, and where a dimension is not known before it is computed."""
    spec = schema.SCHEMA[name]
    if spec.dtype == "string" or not set(spec.dims) <= sizes.keys():
        return 0
    return math.prod(schema.shape(spec, sizes)) * np.dtype(spec.dtype).itemsize


def versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


def known_at_start(vit: ViT, kept: Sequence[DecodedImage], labels: Labels) -> dict[str, np.ndarray]:
    """The arrays that need no computing, by name."""
    metrics = analysis.metrics_of(vit)
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


def given_class_names(request: StudyRequest) -> ClassNames | None:
    """The class names that the person gives: of a file, or of a set of classes that timm knows by name.

    Raises:
        LabelError: The file cannot be understood.
    """
    if request.classes is None:
        return None
    if str(request.classes) in NAMED_CLASSES:
        return ClassNames(*named_classes(str(request.classes)))
    if not request.classes.exists():
        raise LabelError(f"there is no file {request.classes}; give one, or one of {', '.join(NAMED_CLASSES)}")
    return read_class_names(request.classes)


def choices_of(request: StudyRequest, given: ClassNames | None) -> Choices:
    """What the person says of the model, where no file does."""
    return Choices(
        weights=request.weights,
        pool=request.pool,
        outputs=request.outputs,
        names=None if given is None else given.size,
        mean=request.mean,
        std=request.std,
        crop_pct=request.crop_pct,
        interpolation=request.interpolation,
    )


def class_names_of(vit: ViT, weights: Weights, given: ClassNames | None) -> ClassNames:
    """Names of the model's classes: those given, else those known, else their numbers."""
    if given is not None:
        return given
    known = weights.provenance
    return ClassNames(known.class_names, known.wnids) if known.class_names else ClassNames.numbered(vit.num_classes)


def labels_of(request: StudyRequest, vit: ViT, classes: ClassNames, kept: Sequence[DecodedImage]) -> Labels:
    """What is known of each image's class.

    Without a classifier nothing is predicted, so nothing needs matching: the folders themselves are the classes.
    """
    given = [None if request.no_labels else k.label for k in kept]
    if not vit.num_classes:
        classes, match = own_classes(given)
    else:
        mapping = None if request.no_labels else request.label_map
        try:
            match = match_labels(given, classes, mapping, folders=request.images.is_dir())
        except LabelError as error:
            subset = subset_of(vit.num_classes)
            if subset is None or not classes.are_numbers:
                raise
            raise LabelError(f"{error}\n--classes {subset} names them, if these weights were trained on it.") from None
    return Labels(classes.names, match.index, match.rule, match.hints)


def how_made(vit: ViT, weights: Weights, labels: Labels, request: StudyRequest) -> dict[str, Any]:
    """What the study stands on that no tensor says, and who said it, in plain JSON."""
    known, config = weights.provenance, vit.preprocessing
    preprocessing = {name: _plain(config[name]) for name in PREPROCESSING}
    classes = known.sources.get("classes", "none")
    own_grid = "×".join(map(str, vit.grid))
    positions = known.sources.get("positions", f"as they are in the weights, for {own_grid} patches")
    if request.classes is not None:
        named = str(request.classes) in NAMED_CLASSES
        classes = (
            f"the names of {request.classes}, as --classes says" if named else f"the names in {request.classes.name}"
        )
    return {
        "part": weights.part,
        "parts": list(weights.parts),
        "prefix": weights.prefix,
        "passed_over": list(weights.passed_over[:MOST_PASSED_OVER]),
        "num_passed_over": len(weights.passed_over),
        "outputs": {
            "classes": f"classes, of which one is true of an image ({vit.outputs.why})",
            "logit": f"one logit, whose sigmoid is P(second class) ({vit.outputs.why})",
        }.get(vit.outputs.kind, known.sources["outputs"]),
        "classes": classes,
        "pool": known.sources["pool"],
        "positions": positions,
        "preprocessing": preprocessing | {"source": known.sources["preprocessing"]},
        "questions": [*known.questions, *labels.hints],
        # With these the same model is opened again, whatever lies beside its weights by then.
        "choices": {
            "weights": kind_of_weights(weights.part, weights.prefix) if weights.kind == "checkpoint" else "auto",
            "pool": None if vit.pool == "none" else vit.pool,
            "outputs": "classes" if vit.num_classes else "other",
            "positions": "resampled" if positions.startswith("resampled") else "as they are",
            **preprocessing,
        },
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def sizes_of(vit: ViT, start: dict[str, np.ndarray]) -> dict[str, int]:
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
        "patch": vit.num_patches,
        "pattern": len(PATCH_PATTERNS),
        "cls_pattern": len(CLS_PATTERNS),
        "latent": LATENT,
        "parameter": num_parameters(vit.num_patches),
    }
    if "class" in start:
        sizes |= {"class": len(start["class"]), "rank": min(TOP_CLASSES, len(start["class"]))}
    return schema.all_sizes(sizes)


def attention_of(request: StudyRequest, settings: Settings, sizes: dict[str, int]) -> str:
    """Whether the attention matrices are stored, or rebuilt when read."""
    if request.attention != "auto":
        return request.attention
    size = nbytes("attention", sizes)
    return "stored" if size <= settings.attention_limit_gb * 1e9 else "rebuilt"


def described(vit: ViT) -> dict[str, Any]:
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


def device_of(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda, but torch sees no GPU here; use --device cpu, or auto")
    return wanted


def _text(values: Sequence[str]) -> np.ndarray:
    return np.array(values, dtype=object)


class Clock:
    """Seconds of each step, by name."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = seconds or {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - began, 3)
