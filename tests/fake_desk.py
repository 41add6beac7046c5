"""A desk with its jobs in a dict, which publishes at once what is asked for: no queue, no ledger, no torch."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analyses.pruning import ANALYSIS, PruneRequest
from dashboard.pruned import COORDINATES, Pruning
from jobs.client import Submitted
from jobs.requests import INTERACTIVE, Request, from_json, key_of, kind_of, to_json
from jobs.work import ENDED, Job, JobNotFoundError, WorkerSeen
from store.derived import Writer
from store.errors import StudyNotFoundError
from store.paths import study_path
from store.settings import Settings
from store.study import open_published

RUN = {"headscope": "0.1.0", "packages": {}, "seconds": 0.1}
BEFORE = [(0, 0.9), (1, 0.05), (2, 0.03), (3, 0.01), (4, 0.005)]
AFTER = [(1, 0.5), (0, 0.3), (2, 0.1), (5, 0.05), (3, 0.01)]


def made_arrays(request: PruneRequest, classes: bool = True, has_cls: bool = True) -> dict[str, np.ndarray]:
    """A plausible result of pruning heads: less is left, the more is pruned.

    Args:
        classes: Whether the model has a classifier.
        has_cls: Whether it reads CLS.
    """
    (layer, head), count, heads = request.heads[0], len(request.images), len(request.heads)
    pruned = np.array([bin(regions).count("1") for regions in request.regions])[:, None]
    left = 0.9 - 0.05 * pruned * heads - 0.01 * (layer + head) - 0.01 * (np.arange(count) % 3)
    lost = np.repeat(0.05 * pruned * heads, count, axis=1)
    layers = sorted({layer for layer, _ in request.heads})
    by_layer = np.repeat(lost[:, None], len(layers), axis=1)
    top = np.array([[BEFORE if regions == 0 else AFTER] * count for regions in request.regions])
    of_class = {
        "probability_drop": lost,
        "pruned_probability": left,
        "jsd": lost,
        "top_class": top[..., 0].astype(np.int32),
        "top_probability": top[..., 1],
    }
    return {
        "image": np.array(request.images, dtype=object),
        "region_set": np.array(request.regions, np.int32),
        "layer": np.array(layers, np.int32),
        "patch_distance": by_layer,
        **({"cls_distance": by_layer} if has_cls else {}),
        **(of_class if classes else {}),
    }


def made_pruning(requests: Sequence[PruneRequest], **changes: Any) -> Pruning:
    """`made_arrays` as the page has them. `changes` go over the arrays or the other fields; None leaves one out."""
    parts = [made_arrays(request) for request in requests]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name not in COORDINATES}
    first = requests[0]
    regions = [each for request in requests for each in request.regions]
    fields: dict[str, Any] = {
        "undefined": {},
        "label": np.zeros(len(first.images), int),
        "first_before": np.zeros(len(first.images), int),
        "top_before": BEFORE if len(first.images) == 1 else [],
    }
    for name, value in changes.items():
        if name in fields:
            fields[name] = value
        elif value is None:
            del arrays[name]
        else:
            arrays[name] = value
    return Pruning(list(first.images), list(first.heads), regions, arrays, **fields)


def publish(settings: Settings, request: PruneRequest) -> None:
    """Put a plausible result beside the request's study, if that is there."""
    try:
        study = open_published(study_path(settings.studies, request.study))
    except (StudyNotFoundError, ValueError):
        return
    arrays = made_arrays(request, "probability" in study, bool(study.attrs["model"]["has_cls"]))
    Writer(study, ANALYSIS, request, "job").publish(arrays, {}, RUN, lambda: None)


class NoUses:
    """Notes no use of a result."""

    def note(self, result: Path) -> None:
        return


class FakeLedger:
    """Jobs in a dict."""

    def __init__(self) -> None:
        self.all: dict[str, Job] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.seen = [WorkerSeen("interactive@here", INTERACTIVE, "cpu", 0.0)]

    def now(self) -> float:
        return time.time()

    def result(self, key: str) -> dict[str, Any] | None:
        return self.results.get(key)

    def job(self, job: str) -> Job:
        if job not in self.all:
            raise JobNotFoundError(f"there is no job {job}")
        return self.all[job]

    def jobs(self, limit: int = 200, kinds: Any = None) -> list[Job]:
        return [job for job in self.all.values() if kinds is None or job.kind in kinds][-limit:]

    def counts(self) -> dict[str, int]:
        return {}

    def kept(self, name: str) -> Any:
        return None

    def workers(self, within: float = 60) -> list[WorkerSeen]:
        return self.seen


class FakeDesk:
    """A desk at which jobs are done at once, or, with `answers` False, when the test says so.

    Attributes:
        asked: Every request that was submitted.
    """

    def __init__(self, settings: Any = None, answers: bool = True) -> None:
        self.settings = settings
        self.uses = NoUses()
        self.ledger: Any = FakeLedger()
        self.answers = answers
        self.asked: list[Request] = []

    def submit(self, request: Request, who: str) -> Submitted:
        key = key_of(request)
        self.asked.append(request)
        live = [job for job in self.ledger.jobs() if job.key == key and job.state not in ENDED]
        if live:
            return Submitted(live[0], False, None)
        job = a_job(
            id=f"job{len(self.ledger.all)}", kind=kind_of(request), key=key, request=to_json(request), who=who,
            title=request.title,
        )  # fmt: skip
        self.ledger.all[job.id] = job
        if self.answers:
            self.finish(job.id)
        return Submitted(self.ledger.all[job.id], True, None)

    def set(self, job: str, **changes: Any) -> None:
        """Change a job."""
        self.ledger.all[job] = replace(self.ledger.all[job], **changes)

    def finish(self, job: str) -> None:
        """Publish the result of a job, and end it."""
        request = from_json(self.ledger.all[job].kind, self.ledger.all[job].request)
        if isinstance(request, PruneRequest):
            assert self.settings is not None, "a desk that answers publishes beside the studies of its settings"
            self.publish(request)
        self.set(job, state="done", place=None)

    def publish(self, request: PruneRequest) -> None:
        """Put what was asked for beside the study."""
        publish(self.settings, request)

    def cancel(self, job: str, who: str) -> Job:
        self.set(job, state="cancelled", cause=f"cancelled by {who}", place=None)
        return self.ledger.job(job)


def a_job(**changes: Any) -> Job:
    """A pruning that has just been asked for."""
    plain: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    numbers = ("units_done", "images_done", "images_total", "stage_done", "stage_total", "workers")
    plain |= dict.fromkeys(numbers, 0) | {"units_total": 1, "counted": "", "facts": {}, "submitted": 0.0}
    plain |= {
        "id": "job0",
        "kind": "prune",
        "queue": INTERACTIVE,
        "state": "queued",
        "place": 0,
        "title": "",
        "who": "",
    }
    return Job(**plain | changes)
