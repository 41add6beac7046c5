"""What came of pruning heads? The result of jobs as numbers, and the requests that they answer. No Dash."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.vocabulary import METRICS, MODES, WHOLE_HEAD, regions_title
from dashboard.data import Array, StudyFacts, indices_of, of_image, per_image
from dashboard.selection import Selection
from jobs.requests import MOST_PRUNE_IMAGES, PruneRequest

# Of a result, what has a row for each set of regions.
BY_REGIONS = ("probability", "pruned_probability", "jsd", "cls_distance", "patch_distance", "top_after")


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
    heads = tuple(sorted(set(chosen.heads_pruned)))
    return [PruneRequest(facts.name, facts.content, images, heads, each) for each in regions if images]


def images_of(facts: StudyFacts, images: str) -> list[str]:
    """All images of a set; of more than one job may have, evenly spaced ones: studies are sorted by class."""
    every = indices_of(facts.study, images)
    if len(every) > MOST_PRUNE_IMAGES:
        every = every[np.linspace(0, len(every) - 1, MOST_PRUNE_IMAGES).astype(int)]
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
class Pruning:
    """What came of pruning some heads together on some images.

    Attributes:
        result: As workers.prune gives it; of several, as `joined` does.
    """

    result: dict[str, Any]

    @classmethod
    def joined(cls, results: list[dict[str, Any]]) -> "Pruning":
        """Of the same heads and images, the sets of regions one after another."""

        def rows(name: str) -> Any:
            parts: list[Any] = [each.get(name) for each in results]
            if None in parts:
                return None
            if isinstance(parts[0], dict):
                return {layer: [row for part in parts for row in part[layer]] for layer in parts[0]}
            return [row for part in parts for row in part]

        undefined = {regions: why for each in results for regions, why in (each.get("undefined") or {}).items()}
        whole = {name: rows(name) for name in ("regions", *BY_REGIONS)}
        return cls(results[0] | whole | {"undefined": undefined})

    @property
    def images(self) -> int:
        return len(self.result["images"])

    @property
    def heads(self) -> list[tuple[int, int]]:
        return [(layer, head) for layer, head in self.result["heads"]]

    @property
    def layer(self) -> int:
        """The last with a pruned head: its output feels all of them."""
        return max(layer for layer, _ in self.heads)

    @property
    def regions(self) -> list[int]:
        return list(self.result["regions"])

    def row(self, regions: int) -> int:
        """Where a set of regions is in the lists of the result."""
        return self.regions.index(regions)

    def why_not(self, regions: int) -> str:
        """Why the model does not have these regions; empty if it has."""
        return str((self.result.get("undefined") or {}).get(str(regions), ""))

    def values(self, metric: str, regions: int) -> Array:
        """Of each image, float64, NaN where there is none: the metric as the curve of all heads shows it."""
        return self._rows(METRICS[metric].drawn, regions)

    def _rows(self, name: str, regions: int) -> Array:
        rows = self.result.get(name)
        if isinstance(rows, dict):
            rows = rows.get(str(self.layer))
        row = rows[self.row(regions)] if rows else None
        return np.array([None] * self.images if row is None else row, dtype=np.float64)

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
        where = [facts.image_indices[image] for image in self.result["images"]]
        joint = self._rows(metric, WHOLE_HEAD)
        if len(where) == 1:
            of_one = of_image(facts.study, "importance", where[0], metric)
            alone = np.array([sum(float(of_one[head]) for head in self.heads)])
        else:
            alone = np.sum([per_image(facts.study, metric, *head)[where] for head in self.heads], axis=0, dtype=float)
        known = np.isfinite(joint) & np.isfinite(alone)
        return (float(joint[known].mean()), float(alone[known].mean())) if known.any() else None

    def before(self, image: int = 0) -> list[tuple[int, float]]:
        """The most probable classes with their probabilities, with nothing pruned."""
        return _classes(self.result.get("top_before"), image)

    def after(self, regions: int, image: int = 0) -> list[tuple[int, float]]:
        """The same when the regions are switched off; empty where the model has no classifier, or not the regions."""
        rows = self.result.get("top_after")
        return _classes(rows[self.row(regions)] if rows else None, image)

    def label(self, image: int = 0) -> int | None:
        """The true class, if it is known."""
        found = (self.result.get("label") or [None] * self.images)[image]
        return None if found is None or found < 0 else int(found)

    def predictions(self, regions: int) -> "Predictions | None":
        """How the predictions of all images change; None where there are none."""
        before, after = self._firsts(self.result.get("top_before")), None
        rows = self.result.get("top_after")
        if rows:
            after = self._firsts(rows[self.row(regions)])
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
