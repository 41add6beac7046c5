"""What do the views read? Studies by name, and cached, read-only answers about them.

A study never changes once it is published, so an answer holds as long as its Study object does. Shelf hands
out one object for one published content, which is what the caches below are keyed by.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dashboard.selection import MAPS, Facts
from store.errors import StoreError, StudyNotFoundError
from store.paths import manifest_path, study_path
from store.study import Study, StudyEntry, list_studies, open_published

Array = npt.NDArray[Any]

STUDIES_OPEN = 8
# Images read at a time where only one number of each is kept: 4,096 x 1,000 classes are 16 MB.
BLOCK = 4096
MOST_CLASS_COLOURS = 12
# Arrays of all heads of all images that are kept: at 50,000 images of 144 heads a map is 58 MB, its names are 7 MB.
LARGE_KEPT = 6


class Shelf:
    """The studies of one data folder, opened once each. Shared by all requests; it only reads.

    Attributes:
        studies: The folder with one folder a study.
    """

    def __init__(self, studies: Path) -> None:
        self.studies = studies
        self._opened: OrderedDict[tuple[str, tuple[int, ...]], Study] = OrderedDict()
        self._lock = threading.Lock()

    def entries(self) -> list[StudyEntry]:
        """Every study in the folder, published or not, by name."""
        return list_studies(self.studies)

    def open(self, name: str) -> Study:
        """The published study of that name; opened anew only when another content was published under it.

        Raises:
            StudyNotFoundError, DamagedError, NewerSchemaError: As store.study.open_published.
        """
        try:
            folder = study_path(self.studies, name)
        except ValueError as error:
            raise StudyNotFoundError(str(error)) from None
        if not folder.is_dir():
            raise StudyNotFoundError(f"there is no study {name}")
        key = (name, _stamp(manifest_path(folder)))
        with self._lock:
            if key in self._opened:
                self._opened.move_to_end(key)
                return self._opened[key]
        study = open_published(folder)
        with self._lock:
            study = self._opened.setdefault(key, study)
            while len(self._opened) > STUDIES_OPEN:
                self._opened.popitem(last=False)
        return study

    def first(self) -> Study | None:
        """The first study that opens, by name; None if none does."""
        for entry in self.entries():
            if entry.manifest is not None and entry.problem is None:
                try:
                    return self.open(entry.name)
                except StoreError:
                    continue
        return None


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
        maps=tuple(name for name in MAPS if map_array(name) in study) or MAPS[:1],
        interesting=_interesting(study),
    )


def map_array(name: str) -> str:
    """Name of the array with the places of a map's heads, (image, layer, head, xy)."""
    return f"{name}_layout"


def _colours(study: Study) -> tuple[str, ...]:
    if "probability" not in study:
        return ("plain",)
    if not study.has_labels:
        return ("probability",)
    label = read(study, "label")
    few = len(np.unique(label[label >= 0])) <= MOST_CLASS_COLOURS
    return ("class", "probability", "prediction") if few else ("probability", "class", "prediction")


def _interesting(study: Study) -> tuple[int, int, str | None]:
    """Layer, head, image: where the first metric is largest; of the images, one that is predicted rightly.

    The first of each where that cannot be read: a damaged array must not take the whole page with it.
    """
    try:
        return _largest(study, study.metrics[0])
    except StoreError:
        return 0, 0, study.image_ids[0]


def _largest(study: Study, metric: str) -> tuple[int, int, str | None]:
    head = first_of(np.abs(summary(study, "importance", metric).mean))
    layer, number = divmod(head, study.sizes["head"])
    effect = np.array(per_image(study, metric, layer, number))
    if metric != "probability":
        effect = np.abs(effect)
    right = predictions(study).right if "probability" in study else None
    if right is not None and (right & np.isfinite(effect)).any():
        effect[~right] = np.nan
    return layer, number, study.image_ids[first_of(effect)]


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


@dataclass(frozen=True)
class Summary:
    """Of one value a head over all images, (layer, head) each. Images without a number are not counted.

    Attributes:
        counted: Images with a number.
    """

    mean: Array
    sd: Array
    counted: Array


@lru_cache(maxsize=64)
def summary(study: Study, name: str, metric: str | None = None) -> Summary:
    """Mean and standard deviation over the images of `name`, (image, layer, head), or of one metric of it."""
    heads = (study.sizes["layer"], study.sizes["head"])
    count, total, squares = np.zeros(heads), np.zeros(heads), np.zeros(heads)
    centre = None
    for block in _blocks(study, name, metric):
        if centre is None:
            centre = _finite_mean(block)
        known = np.isfinite(block)
        apart = np.where(
            known, block - centre, 0.0
        )  # about a centre: squares of small differences, not of large values
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


def _blocks(study: Study, name: str, metric: str | None) -> Iterator[Array]:
    """The array, float64, some thousand images at a time."""
    lead = () if metric is None else (study.metric_index(metric),)
    for start in range(0, study.sizes["image"], BLOCK):
        yield study.read(name, *lead, slice(start, start + BLOCK)).astype(np.float64)


@lru_cache(maxsize=64)
def per_image(study: Study, metric: str, layer: int, head: int) -> Array:
    """One head's importance on every image, float64 (image,)."""
    return _sealed(np.concatenate([block[:, layer, head] for block in _blocks(study, "importance", metric)]))


def of_image(study: Study, name: str, image: int, metric: str | None = None) -> Array:
    """One image's row of an array of (image, layer, head), or of one metric of importance: (layer, head)."""
    return read(study, name, image) if metric is None else read(study, name, study.metric_index(metric), image)


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
