"""What do the views read? Studies by name, and cached, read-only answers about them.

A study never changes once it is published, so an answer holds as long as its Study object does. Shelf hands
out one object for one published content, which is what the caches below are keyed by.
"""

import math
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely  # type: ignore[import-untyped]
from cachetools import LRUCache

from analyses.numbers import is_of_a_package
from analyses.registry import HEAD_NUMBERS, IMAGE_NUMBERS, PICKED_NUMBERS
from analyses.vocabulary import MAPS
from dashboard import access
from dashboard.image_sets import Classes, Condition, Entropy, Ids, Lasso, Prediction, Probability, conditions_of
from dashboard.selection import Facts
from store import pictures
from store.errors import StoreError, StudyNotFoundError
from store.manifest import Manifest
from store.paths import manifest_path, study_path
from store.study import Study, StudyEntry, list_studies, open_published

Array = npt.NDArray[Any]

STUDIES_OPEN = 8
# Images read at a time where only one number of each is kept: 4,096 x 1,000 classes are 16 MB.
BLOCK = 4096
MOST_CLASS_COLOURS = 12
# Arrays of all heads of all images that are kept: at 50,000 images of 144 heads a map is 58 MB, its names are 7 MB.
LARGE_KEPT = 6
# Arrays of a number a head of every image that are kept: 29 MB each at 50,000 images of 144 heads.
TABLES_KEPT = 12
# A larger array of all hops is read anew for each image set.
MOST_KEPT_BYTES = 256_000_000
SETS_KEPT = 64


class Shelf:
    """The studies of one data folder, opened once each. Shared by all requests; it only reads.

    Attributes:
        studies: The folder with one folder a study.
    """

    def __init__(self, studies: Path) -> None:
        self.studies = studies
        self._opened: LRUCache[tuple[str, tuple[int, ...]], Study] = LRUCache(STUDIES_OPEN)
        self._lock = threading.Lock()

    def entries(self) -> list[StudyEntry]:
        """Every study in the folder that whoever asks may see, published or not, by name."""
        return [entry for entry in list_studies(self.studies, _manifest) if _is_seen(entry.path)]

    def open(self, name: str) -> Study:
        """The published study of that name; opened anew only when another content was published under it.

        Raises:
            StudyNotFoundError: There is none, or none that whoever asks may see.
            DamagedError, NewerSchemaError: As store.study.open_published.
        """
        try:
            folder = study_path(self.studies, name)
        except ValueError as error:
            raise StudyNotFoundError(str(error)) from None
        if folder.is_symlink():
            raise StudyNotFoundError(f"study {name} is a link, which is not followed; move it here, or mount it here")
        if not folder.is_dir() or not _is_seen(folder):
            raise StudyNotFoundError(f"there is no study {name}")
        key = (name, _stamp(manifest_path(folder)))
        with self._lock:
            known = self._opened.get(key)
        if known is not None:
            return known
        study = open_published(folder, _manifest)
        with self._lock:
            return self._opened.setdefault(key, study)

    def first(self) -> Study | None:
        """The first study that opens, by name, and is everybody's; None if none does."""
        for entry in self.entries():
            if entry.manifest is not None and entry.problem is None and pictures.private(entry.manifest) is None:
                try:
                    return self.open(entry.name)
                except StoreError:
                    continue
        return None


def _is_seen(folder: Path) -> bool:
    """Whether whoever asks may see the study: a private one is its owner's and admins', for its time."""
    if not pictures.is_name(folder.name):
        return True
    if not access.is_known():
        return False
    user = access.current()
    try:
        said = pictures.private(_manifest(folder))
    except StoreError:  # nobody knows whose it is
        return user.may("admin")
    return said is None or (said.until > time.time() and (said.owner == user.name or user.may("admin")))


def _manifest(folder: Path) -> Manifest:
    """The manifest of a study, read once while it stays: that of 50,000 images takes half a second."""
    return _loaded(folder, _stamp(manifest_path(folder)))


@lru_cache(maxsize=1024)
def _loaded(folder: Path, stamp: tuple[int, ...]) -> Manifest:
    return Manifest.load(folder)


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes whenever the file is replaced; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass(frozen=True)
class StudyFacts(Facts):
    """An open study, with what selection and header need of it.

    Attributes:
        content: Hash of everything in the study: part of the address of its pictures.
        grid: Patches, (rows, columns).
        prefix_tokens: Names of the tokens before the patches.
    """

    study: Study
    content: str
    grid: tuple[int, int]
    prefix_tokens: tuple[str, ...]


@lru_cache(maxsize=STUDIES_OPEN)
def facts(study: Study) -> StudyFacts:
    """What the selection must know of a study.

    Raises:
        StoreError: The study has no importance at all, or its names are damaged.
    """
    model = study.attrs["model"]
    if not study.metrics:
        raise StoreError(f"study {study.name} has no importance metric; compute it again")
    rows, columns = model["grid"]
    return StudyFacts(
        study=study,
        name=study.name,
        content=study.manifest.content,
        num_layers=model["num_layers"],
        num_heads=model["num_heads"],
        num_tokens=model["num_prefix_tokens"] + rows * columns,
        has_cls=model["has_cls"],
        grid=(rows, columns),
        prefix_tokens=tuple(model["prefix_tokens"]),
        image_ids=study.image_ids,
        metrics=tuple(study.metrics),
        colours=_colours(study),
        maps=tuple(name for name, of in MAPS.items() if of.layout in study) or (next(iter(MAPS)),),
        vectors=tuple(study.vectors),
        num_classes=study.sizes["class"] if "probability" in study else 0,
        has_labels=study.has_labels,
        interesting=_interesting(study),
        numbers=tuple(name for name in PICKED_NUMBERS if is_of_a_package(name) and name in study),
    )


def _colours(study: Study) -> tuple[str, ...]:
    last = ("importance", *(name for name in IMAGE_NUMBERS if name in study))
    if "probability" not in study:
        return ("plain", *last)
    if not study.has_labels:
        return ("probability", *last)
    label = read(study, "label")
    few = len(np.unique(label[label >= 0])) <= MOST_CLASS_COLOURS
    first = ("class", "probability", "prediction") if few else ("probability", "class", "prediction")
    return (*first, *last)


def _interesting(study: Study) -> tuple[int, int, str | None]:
    """Layer, head, image: the most important head of the most typical image, by the first metric.

    The first of each where that cannot be read: a damaged array must not take the whole page with it.
    """
    try:
        return _most_typical(study, study.metrics[0])
    except StoreError:
        return 0, 0, study.image_ids[0]


def _most_typical(study: Study, metric: str) -> tuple[int, int, str | None]:
    """The image whose importance vector is nearest to the mean of all, of those that are predicted rightly if
    there are any; and the head that matters most on it."""
    effect = table(study, "importance", metric)
    vectors = effect.reshape(len(effect), -1)
    apart = ((vectors - summary(study, "importance", metric).mean.ravel()) ** 2).sum(axis=1)
    right = predictions(study).right if "probability" in study else None
    if right is not None and (right & np.isfinite(apart)).any():
        apart = np.where(right, apart, np.nan)
    image = first_of(-apart)
    layer, head = divmod(first_of(effect[image]), effect.shape[2])
    return layer, head, study.image_ids[image]


def first_of(values: Array) -> int:
    """Index of the largest of `values`, flattened. NaN never comes first; with nothing but NaN it is 0."""
    flat = np.where(np.isfinite(values), values, -np.inf).ravel()
    return int(flat.argmax()) if flat.size else 0


def ranks(values: Array) -> Array:
    """Place of each of `values` from the largest, 1 first; 0 for NaN, which has no place. Same shape."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    places = np.zeros(flat.shape, dtype=np.int64)
    known = np.flatnonzero(np.isfinite(flat))
    places[known[np.argsort(-flat[known], kind="stable")]] = np.arange(1, len(known) + 1)
    return places.reshape(np.shape(values))


# --- arrays ---


@lru_cache(maxsize=64)
def read(study: Study, name: str, *index: int) -> Array:
    """`study.read(name, *index)`, kept and read-only. For what is small, or of one image."""
    return _sealed(study.read(name, *index))


@lru_cache(maxsize=LARGE_KEPT)
def large(study: Study, name: str) -> Array:
    """As `read`, for what has something of every head of every image: fewer are kept."""
    return _sealed(study.read(name))


@lru_cache(maxsize=TABLES_KEPT)
def table(study: Study, name: str, metric: str | None = None) -> Array:
    """One number a head of every image, float32 (image, layer, head): an array, or one metric of importance.

    A number of the whole study is the same on every image.
    """
    values = study.read(name) if metric is None else study.read(name, study.metric_index(metric))
    return _sealed(values if values.ndim > 2 else np.broadcast_to(values, (study.sizes["image"], *values.shape)))


@dataclass(frozen=True)
class Summary:
    """Of one value a head over the images of a set, (layer, head) each. Images without a number are not counted.

    Attributes:
        counted: Images with a number.
    """

    mean: Array
    sd: Array
    counted: Array


@lru_cache(maxsize=SETS_KEPT)
def summary(study: Study, name: str, metric: str | None = None, images: str = "") -> Summary:
    """Mean and standard deviation over an image set of `name`, (image, layer, head), or of one metric of it.

    A number of the whole study, (layer, head), is its own mean and has no deviation.
    """
    if "image" not in study.specs[name].dims:
        once = table(study, name)[0]
        return Summary(once, _sealed(np.full(once.shape, np.nan)), _sealed(np.isfinite(once).astype(np.int64)))
    values, inside = table(study, name, metric), members(study, images)
    heads = values.shape[1:]
    count, total, squares = np.zeros(heads), np.zeros(heads), np.zeros(heads)
    centre = None
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK].astype(np.float64)
        if inside is not None:
            block = block[inside[start : start + BLOCK]]
        if centre is None and len(block):
            centre = _finite_mean(block)
        known = np.isfinite(block)
        # About a centre: squares of small differences, not of large values.
        apart = np.where(known, block - (0 if centre is None else centre), 0.0)
        count += known.sum(axis=0)
        total += apart.sum(axis=0)
        squares += (apart**2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = total / count
        variance = np.maximum(squares / count - shift**2, 0)
    mean = shift if centre is None else centre + shift
    return Summary(_sealed(mean), _sealed(np.sqrt(variance)), _sealed(count.astype(np.int64)))


def _finite_mean(values: Array) -> Array:
    known = np.isfinite(values)
    return np.asarray(np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))


@lru_cache(maxsize=SETS_KEPT)
def strength_mean(study: Study, images: str = "") -> Array:
    """Mean attention strength over an image set, float64 (layer, head, hop); NaN where no image has a number."""
    inside = members(study, images)
    total, count = 0.0, 0.0
    kept = large(study, "strength") if 4 * math.prod(study["strength"].shape) <= MOST_KEPT_BYTES else None
    for start in range(0, study.sizes["image"], BLOCK):
        here = slice(start, start + BLOCK)
        if inside is not None and not inside[here].any():
            continue
        block = study.read("strength", here) if kept is None else kept[here]
        block = (block if inside is None else block[inside[here]]).astype(np.float64)
        known = np.isfinite(block)
        total = total + np.where(known, block, 0.0).sum(axis=0)
        count = count + known.sum(axis=0)
    if np.ndim(count) == 0:
        return _sealed(np.full([study.sizes[dim] for dim in ("layer", "head", "hop")], np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        return _sealed(np.asarray(total / count))


def per_image(study: Study, metric: str, layer: int, head: int) -> Array:
    """One number of a head, of HEAD_NUMBERS, on every image, (image,)."""
    number = HEAD_NUMBERS[metric]
    return np.asarray(table(study, number.array, number.metric)[:, layer, head])


def of_image(study: Study, name: str, image: int, metric: str | None = None) -> Array:
    """One image's row of an array of (image, layer, head), or of one metric of importance: (layer, head)."""
    return np.asarray(table(study, name, metric)[image])


# --- image sets ---


@lru_cache(maxsize=SETS_KEPT)
def members(study: Study, images: str) -> Array | None:
    """Which images are in a set, bool (image,); None is all.

    Args:
        images: The set's conditions, which the study can have (dashboard.selection.fits).
    """
    conditions = conditions_of(images)
    if not conditions:
        return None
    return _sealed(np.logical_and.reduce([_holds(study, each) for each in conditions]))


@lru_cache(maxsize=SETS_KEPT)
def indices_of(study: Study, images: str) -> Array:
    """Indices of a set's images, ascending."""
    inside = members(study, images)
    return _sealed(np.arange(study.sizes["image"]) if inside is None else np.flatnonzero(inside))


def _holds(study: Study, condition: Condition) -> Array:
    """On which images a condition holds. What is not known, NaN or no label, is in no set."""
    match condition:
        case Classes(classes):
            return np.isin(read(study, "label"), classes)
        case Prediction(right):
            told = predictions(study)
            known = (told.label >= 0) & (told.predicted >= 0)
            return np.asarray(known & ((told.label == told.predicted) == right))
        case Probability(low, high):
            return _between(predictions(study).probability, low, high)
        case Ids(part):
            return np.array([part.casefold() in image.casefold() for image in study.image_ids])
        case Lasso(vector, corners):
            x, y = read(study, "image_layout", study.vectors.index(vector)).T
            return np.asarray(shapely.contains_xy(shapely.make_valid(shapely.Polygon(corners)), x, y))
        case Entropy(layer, head, low, high):
            return _between(table(study, "entropy")[:, layer, head], low, high)


def _between(values: Array, low: float, high: float) -> Array:
    """Ends included, as far as the four figures that an address has of them tell."""
    return np.asarray((values >= low - _half_a_figure(low)) & (values <= high + _half_a_figure(high)))


def _half_a_figure(value: float) -> float:
    """Half a step of the fourth figure."""
    return 0.5 * 10.0 ** (math.floor(math.log10(abs(value))) - 3) if value else 0.0


@dataclass(frozen=True)
class Predictions:
    """Of each image, (image,).

    Attributes:
        label: True class, -1 where it is not known.
        predicted: Most probable class; -1 where the probabilities are not numbers.
        target: The class whose probability is followed: the label, or the predicted class without one.
        probability: Of the target.
        right: Whether label and prediction agree; None without any labels.
    """

    label: Array
    predicted: Array
    target: Array
    probability: Array
    right: Array | None


@lru_cache(maxsize=STUDIES_OPEN)
def predictions(study: Study) -> Predictions:
    """What the whole model says of every image.

    Raises:
        LeftOutError: The model has no classifier.
    """
    label, target = read(study, "label"), read(study, "target")
    predicted, probability = [], []
    for start in range(0, study.sizes["image"], BLOCK):
        block = study.read("probability", slice(start, start + BLOCK))
        known = np.asarray(np.isfinite(block).all(axis=1))
        rows, wanted = np.arange(len(block)), target[start : start + BLOCK]
        predicted.append(np.where(known, np.where(known[:, None], block, 0).argmax(axis=1), -1))
        probability.append(np.where(wanted >= 0, block[rows, np.maximum(wanted, 0)], np.nan))
    best = np.concatenate(predicted)
    right = _sealed(np.asarray((label == best) & (label >= 0))) if study.has_labels else None
    return Predictions(label, _sealed(best), target, _sealed(np.concatenate(probability)), right)


def _sealed(array: Array) -> Array:
    array.flags.writeable = False
    return array
