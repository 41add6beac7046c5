"""What came of pruning a head? The result of a job as numbers, and the request that it answers. No Dash."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboard.data import Array, StudyFacts
from dashboard.selection import Selection
from dashboard.words import METRICS
from workers.jobs import (
    CLS_CLS,
    CLS_PATCHES,
    MODES,
    MOST_PRUNE_IMAGES,
    PATCHES_CLS,
    PATCHES_PATCHES,
    PruneRequest,
)

# What is switched off, by the names that the selection has for it.
REGIONS = {
    "none": 0,
    "all": CLS_CLS | CLS_PATCHES | PATCHES_CLS | PATCHES_PATCHES,
    "patches": PATCHES_PATCHES,
    "cls": CLS_CLS,
    "crossing": CLS_PATCHES | PATCHES_CLS,
    "cls-related": CLS_CLS | CLS_PATCHES | PATCHES_CLS,
}
# In the order of the paper's Fig. 4B.
SHOWN = tuple(sorted(REGIONS, key=lambda part: MODES.index(REGIONS[part])))


def request_of(facts: StudyFacts, chosen: Selection) -> PruneRequest:
    """The selected head pruned on the selected image; without one, on the images of `images_of`."""
    images = tuple(images_of(facts)) if chosen.image is None else (chosen.image,)
    return PruneRequest(facts.name, facts.content, images, ((chosen.layer, chosen.head),), MODES)


def images_of(facts: StudyFacts) -> list[str]:
    """All images of the study; of more than one job may have, evenly spaced ones: sets are sorted by class."""
    every = facts.image_ids
    if len(every) <= MOST_PRUNE_IMAGES:
        return every
    return [every[index] for index in np.linspace(0, len(every) - 1, MOST_PRUNE_IMAGES).astype(int)]


@dataclass(frozen=True)
class Effect:
    """One metric when one part is switched off, over the images of the result. NaN where there is no number.

    Attributes:
        mean: Of one image, its value.
        sd: NaN with fewer than two images.
        counted: Images with a number.
    """

    mean: float
    sd: float
    counted: int


@dataclass(frozen=True)
class Pruning:
    """The result of pruning one head.

    Attributes:
        result: As workers.prune gives it; regions of REGIONS, each a row.
        layer: Of the head.
    """

    result: dict[str, Any]
    layer: int

    @property
    def images(self) -> int:
        return len(self.result["images"])

    def row(self, part: str) -> int:
        """Where the part is in the lists of the result."""
        return int(self.result["regions"].index(REGIONS[part]))

    def why_not(self, part: str) -> str:
        """Why the model does not have the part; empty if it has."""
        return str((self.result.get("undefined") or {}).get(str(REGIONS[part]), ""))

    def values(self, metric: str, part: str) -> Array:
        """Of each image, float64, NaN where there is none: the metric as the curve of all heads shows it."""
        words = METRICS[metric]
        rows = self.result.get(metric if words.curve == "importance" else words.curve)
        if isinstance(rows, dict):
            rows = rows.get(str(self.layer))
        row = rows[self.row(part)] if rows else None
        return np.array([None] * self.images if row is None else row, dtype=np.float64)

    def effect(self, metric: str, part: str) -> Effect:
        """Mean and standard deviation of `values`."""
        values = self.values(metric, part)
        known = values[np.isfinite(values)]
        if not known.size:
            return Effect(float("nan"), float("nan"), 0)
        return Effect(float(known.mean()), float(known.std()) if known.size > 1 else float("nan"), known.size)

    def before(self, image: int = 0) -> list[tuple[int, float]]:
        """The most probable classes with their probabilities, with nothing pruned."""
        return _classes(self.result.get("top_before"), image)

    def after(self, part: str, image: int = 0) -> list[tuple[int, float]]:
        """The same when the part is switched off; empty where the model has no classifier, or not that part."""
        rows = self.result.get("top_after")
        return _classes(rows[self.row(part)] if rows else None, image)

    def label(self, image: int = 0) -> int | None:
        """The true class, if it is known."""
        found = (self.result.get("label") or [None] * self.images)[image]
        return None if found is None or found < 0 else int(found)

    def predictions(self, part: str) -> "Predictions | None":
        """How the predictions of all images change; None where there are none."""
        before, after = self._firsts(self.result.get("top_before")), None
        rows = self.result.get("top_after")
        if rows:
            after = self._firsts(rows[self.row(part)])
        if before is None or after is None:
            return None
        label = np.array([-1 if each is None else each for each in map(self.label, range(self.images))])
        known, same = label >= 0, float((before == after).mean())
        if not known.any():
            return Predictions(None, None, 0, same)
        right = [float((firsts[known] == label[known]).mean()) for firsts in (before, after)]
        return Predictions(right[0], right[1], int(known.sum()), same)

    def _firsts(self, rows: Any) -> Array | None:
        """The most probable class of each image, -1 without any; None where no image has one."""
        found = [_classes(rows, image) for image in range(self.images)]
        firsts = np.array([each[0][0] if each else -1 for each in found])
        return firsts if (firsts >= 0).any() else None


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


def _classes(rows: Any, image: int) -> list[tuple[int, float]]:
    row = rows[image] if rows else None
    return [(int(place), float("nan") if p is None else float(p)) for place, p in row or []]
