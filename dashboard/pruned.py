"""What came of pruning heads? Results of the store as numbers, and the requests that they answer. No Dash."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from analyses.pruning import ANALYSIS as PRUNE
from analyses.pruning import PruneRequest
from analyses.request import MOST_IMAGES
from analyses.vocabulary import METRICS, MODES, TOP_CLASSES, WHOLE_HEAD, regions_title
from dashboard.data import Array, StudyFacts, indices_of, of_image, per_image, predictions, read
from dashboard.selection import Selection
from store.derived import path_of
from store.errors import StoreError
from store.paths import manifest_path
from store.study import Study

# Arrays of a result that name the places of the others.
COORDINATES = ("image", "region_set", "layer")
# The array with what a metric loses, where it is not called as the metric is.
LOST = {"probability": "probability_drop"}

log = logging.getLogger(__name__)


def is_custom(regions: int) -> bool:
    """Whether it is none of the paper's six modes."""
    return regions not in MODES


def name_of(regions: int, heads: int = 1) -> str:
    """What is switched off, in words."""
    return f"{regions_title(regions, heads)} pruned"


def requests_of(facts: StudyFacts, chosen: Selection) -> list[PruneRequest]:
    """The heads that are pruned together on the selected image, or, without one, on the images of `images_of`.

    In the six modes; a set of regions that is none of these is asked for by itself, so that the six do not wait.
    Empty where no image is in the set.
    """
    images = tuple(images_of(facts, chosen.images)) if chosen.image is None else (chosen.image,)
    regions = [MODES, (chosen.regions,)] if is_custom(chosen.regions) else [MODES]
    content = facts.study.content_of(PRUNE.reads)
    return [
        PruneRequest(study=facts.name, content=content, images=images, heads=chosen.heads_pruned, regions=each)
        for each in regions
        if images
    ]


def images_of(facts: StudyFacts, images: str) -> list[str]:
    """All images of a set; of more than one job may have, evenly spaced ones: studies are sorted by class."""
    every = indices_of(facts.study, images)
    if len(every) > MOST_IMAGES:
        every = every[np.linspace(0, len(every) - 1, MOST_IMAGES).astype(int)]
    return [facts.image_ids[index] for index in every]


@dataclass(frozen=True)
class Effect:
    """One metric when some regions are switched off, over the images of the result. NaN where there is no number.

    Attributes:
        mean: Of one image, its value.
        sd: NaN with fewer than two images.
        counted: Images with a number.
    """

    mean: float
    sd: float
    counted: int

    @classmethod
    def over(cls, values: Array) -> "Effect":
        """Of the images' values."""
        known = values[np.isfinite(values)]
        if not known.size:
            return cls(float("nan"), float("nan"), 0)
        return cls(float(known.mean()), float(known.std()) if known.size > 1 else float("nan"), known.size)


@dataclass(frozen=True)
class Result:
    """One result of the store, in memory.

    Attributes:
        request: What was asked for.
        arrays: By name, as `analyses.pruning` declares them; those that the model allows.
        undefined: Why the model does not have some sets of regions.
    """

    request: PruneRequest
    arrays: dict[str, Array]
    undefined: dict[int, str]


def result_of(study: Study, request: PruneRequest) -> Result | None:
    """What came of a request; None while there is nothing, or only what is damaged."""
    folder = path_of(study.folder.parent, PRUNE.name, request)
    try:
        stamp = manifest_path(folder).stat()
    except FileNotFoundError:
        return None
    try:
        return _read_result(study, folder.name, (stamp.st_ino, stamp.st_mtime_ns, stamp.st_size))
    except StoreError as error:  # it is asked for again, and computed again
        log.warning("%s", error)
        return None


@lru_cache(maxsize=128)
def _read_result(study: Study, key: str, stamp: tuple[int, ...]) -> Result:
    """A result never changes; `stamp` is of the one that was published there."""
    found = study.derived(PRUNE.name, key)
    arrays = {name: found.read(name) for name in found.arrays if name not in COORDINATES}
    undefined = {int(regions): str(why) for regions, why in found.attrs.get("undefined", {}).items()}
    request = found.request
    assert isinstance(request, PruneRequest)
    return Result(request, arrays, undefined)


@dataclass(frozen=True)
class Pruning:
    """What came of pruning some heads together on some images.

    Attributes:
        image_ids: Of the images.
        heads: As (layer, head), sorted.
        regions: The sets of regions, in the order of the arrays' rows.
        arrays: By name; each (region_set, …).
        undefined: Why the model does not have some sets of regions.
        label: True class of each image, -1 where it is not known.
        first_before: The most probable class of each image with nothing pruned, -1 without any; None of a model
            without a classifier.
        top_before: Of one image, its most probable classes with their probabilities, with nothing pruned.
    """

    image_ids: list[str]
    heads: list[tuple[int, int]]
    regions: list[int]
    arrays: dict[str, Array]
    undefined: dict[int, str]
    label: Array
    first_before: Array | None
    top_before: list[tuple[int, float]]

    @classmethod
    def joined(cls, facts: StudyFacts, results: Sequence[Result]) -> "Pruning":
        """Of results of the same heads and images, the sets of regions one after another."""
        first, study = results[0], facts.study
        where = [facts.image_indices[image] for image in first.request.images]
        top_before: list[tuple[int, float]] = []
        first_before = None
        if "probability" in study:
            first_before = predictions(study).predicted[where]
            if len(where) == 1:
                top_before = likeliest(read(study, "probability", where[0]))
        return cls(
            list(first.request.images),
            list(first.request.heads),
            [regions for each in results for regions in each.request.regions],
            {name: np.concatenate([each.arrays[name] for each in results]) for name in first.arrays},
            {regions: why for each in results for regions, why in each.undefined.items()},
            read(study, "label")[where],
            first_before,
            top_before,
        )

    @property
    def images(self) -> int:
        return len(self.image_ids)

    @property
    def layer(self) -> int:
        """The last with a pruned head: its output feels all of them."""
        return max(layer for layer, _ in self.heads)

    def row(self, regions: int) -> int:
        """Where a set of regions is in the arrays."""
        return self.regions.index(regions)

    def why_not(self, regions: int) -> str:
        """Why the model does not have these regions; empty if it has."""
        return self.undefined.get(regions, "")

    def values(self, metric: str, regions: int) -> Array:
        """Of each image, float64, NaN where there is none: the metric as the curve of all heads shows it."""
        return self._row(METRICS[metric].drawn, regions)

    def _row(self, name: str, regions: int) -> Array:
        """Of each image, what an array has of these regions; of one by layer, in the last layer."""
        if name not in self.arrays:
            return np.full(self.images, np.nan)
        row: Array = self.arrays[name][self.row(regions)]
        return row if row.ndim == 1 else row[-1]

    def effect(self, metric: str, regions: int) -> Effect:
        """Mean and standard deviation of `values`."""
        return Effect.over(self.values(metric, regions))

    def together(self, facts: StudyFacts, metric: str) -> tuple[float, float] | None:
        """Importance of the whole heads pruned together, and the sum of the importances that each has by itself.

        Means over the images where all are known. None where they cannot be compared: one head, no numbers, or
        distances in outputs of different layers.
        """
        layers = {layer for layer, _ in self.heads}
        if len(self.heads) < 2 or metric not in facts.metrics or (metric.endswith("distance") and len(layers) > 1):
            return None
        where = [facts.image_indices[image] for image in self.image_ids]
        joint = self._row(LOST.get(metric, metric), WHOLE_HEAD)
        if len(where) == 1:
            of_one = of_image(facts.study, "importance", where[0], metric)
            alone = np.array([sum(float(of_one[head]) for head in self.heads)])
        else:
            alone = np.sum([per_image(facts.study, metric, *head)[where] for head in self.heads], axis=0, dtype=float)
        known = np.isfinite(joint) & np.isfinite(alone)
        return (float(joint[known].mean()), float(alone[known].mean())) if known.any() else None

    def after(self, regions: int, image: int = 0) -> list[tuple[int, float]]:
        """The most probable classes with their probabilities when the regions are switched off; empty where the model
        has no classifier, or not the regions."""
        if "top_class" not in self.arrays:
            return []
        at = self.row(regions), image
        p = self.arrays["top_probability"][at]
        return _ranks(self.arrays["top_class"][at], p) if np.isfinite(p).all() else []

    def predictions(self, regions: int) -> "Predictions | None":
        """How the predictions of all images change; None where there are none."""
        before, after = self.first_before, self.first_after(regions)
        if before is None or after is None or not ((before >= 0).any() and (after >= 0).any()):
            return None
        known, same = self.label >= 0, float((before == after).mean())
        if not known.any():
            return Predictions(None, None, 0, same)
        right = [float((firsts[known] == self.label[known]).mean()) for firsts in (before, after)]
        return Predictions(right[0], right[1], int(known.sum()), same)

    def first_after(self, regions: int) -> Array | None:
        """The most probable class of each image, -1 without any; None without a classifier."""
        if "top_class" not in self.arrays:
            return None
        row = self.row(regions)
        known = np.isfinite(self.arrays["top_probability"][row]).all(axis=-1)
        return np.where(known, self.arrays["top_class"][row][:, 0], -1)


@dataclass(frozen=True)
class Predictions:
    """Of all images of a result.

    Attributes:
        right_before, right_after: Top-1 accuracy on the labelled images; None without any.
        labelled: How many those are.
        same: Share of images with the same most probable class as before.
    """

    right_before: float | None
    right_after: float | None
    labelled: int
    same: float


def likeliest(probability: Array) -> list[tuple[int, float]]:
    """The most probable classes with their probabilities, of one image's (class,); empty of what is no number."""
    order = np.argsort(-probability, kind="stable")[:TOP_CLASSES]
    p = probability[order]
    return _ranks(order, p) if np.isfinite(p).all() else []


def _ranks(classes: Array, p: Array) -> list[tuple[int, float]]:
    return list(zip(classes.tolist(), p.tolist(), strict=True))
