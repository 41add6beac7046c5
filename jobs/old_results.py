"""How do prunings of an older Headscope come into the store? They lie in the ledger, as JSON, and are moved once.

It is harmless to do so twice at the same time, or to be killed at it: a result is removed from the ledger when it is
published beside its study, and what is published is not written again.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from analyses.pruning import ANALYSIS, PruneRequest
from jobs.ledger import Ledger
from store.derived import Writer
from store.errors import LostLeaseError, StoreError
from store.paths import study_path
from store.settings import Settings
from store.study import Study, open_published

# The arrays of now, by what a result called its rows.
_BY_REGIONS = {"probability": "probability_drop", "pruned_probability": "pruned_probability", "jsd": "jsd"}
_BY_LAYER = ("cls_distance", "patch_distance")

_log = logging.getLogger(__name__)


def move(settings: Settings, ledger: Ledger) -> tuple[int, int]:
    """Move what older versions left in the ledger into the store; how many were, and how many have no study any more.

    A result is moved if its study is still published as it was. What cannot be written now is left for the next time.
    """
    moved = gone = 0
    for key in ledger.numbers_of(ANALYSIS.name):
        result = ledger.result(key)
        if result is None:  # another process was faster
            continue
        study = _study_of(result, settings)
        if study is not None:
            try:
                _publish(study, result)
            except (StoreError, LostLeaseError, OSError, KeyError, TypeError, ValueError) as error:
                _log.warning("a pruning of an older version stays in the ledger for now: %s", error)
                continue
        ledger.forget_result(key)
        moved, gone = moved + (study is not None), gone + (study is None)
    if moved or gone:
        _log.warning(
            "moved %d prunings of an older version from the ledger to their studies; %d were of studies that are gone "
            "or were computed anew, and are removed",
            moved,
            gone,
        )
    return moved, gone


def _study_of(result: Mapping[str, Any], settings: Settings) -> Study | None:
    """The study that a result is of; None if it is not there as it was."""
    try:
        study = open_published(study_path(settings.studies, str(result["study"])))
    except (StoreError, ValueError):
        return None
    return study if study.manifest.content == result["content"] else None


def _publish(study: Study, result: Mapping[str, Any]) -> None:
    request = PruneRequest(
        study=study.name,
        content=study.content_of(ANALYSIS.reads),
        images=result["images"],
        heads=result["heads"],
        regions=result["regions"],
    )
    writer = Writer(study, ANALYSIS, request, f"moved-{uuid4().hex}", os.getpid())
    if writer.is_done():
        return
    run = {"packages": study.manifest.packages, "seconds": result.get("seconds", 0.0), "from": "the ledger"}
    writer.publish(arrays_of(result, "probability" in study), _attributes(result), run, lambda: None)


def arrays_of(result: Mapping[str, Any], classes: bool) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a result in JSON.

    Args:
        classes: Whether the model has a classifier.
    """
    layers = list(result["layers"])
    arrays: dict[str, npt.NDArray[Any]] = {
        "image": np.array(result["images"], dtype=object),
        "region_set": np.array(result["regions"], np.int32),
        "layer": np.array(layers, np.int32),
    }
    for name in _BY_LAYER:
        if result.get(name) is not None:
            arrays[name] = np.stack([np.array(result[name][str(layer)], np.float64) for layer in layers], axis=1)
    if classes:
        arrays |= {name: np.array(result[old], np.float64) for old, name in _BY_REGIONS.items()}
        arrays["top_class"], arrays["top_probability"] = _tops(result["top_after"])
    return arrays


def _tops(rows: list[list[list[tuple[int, float]] | None]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Classes and probabilities, (regions, image, rank); -1 and NaN where a row has no number."""
    ranks = max((len(tops) for row in rows for tops in row if tops), default=1)
    nobody = [(-1, np.nan)] * ranks
    whole = np.array([[tops or nobody for tops in row] for row in rows], np.float64)
    return whole[..., 0].astype(np.int32), whole[..., 1]


def _attributes(result: Mapping[str, Any]) -> dict[str, Any]:
    left_out = {_BY_REGIONS.get(name, name): why for name, why in (result.get("left_out") or {}).items()}
    return {"undefined": dict(result.get("undefined") or {}), "left_out": left_out}
