"""A desk that answers from a dict, for tests of the page: no queue, no ledger, no torch."""

import time
from dataclasses import replace
from typing import Any

from jobs.client import Submitted
from jobs.requests import INTERACTIVE, Request, checked, key_of, kind_of, to_json
from jobs.work import ENDED, Job, JobNotFoundError, WorkerSeen


def made_result(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A plausible result of pruning heads: less is left, the more is pruned. `changes` go over it."""
    images, regions, heads = request["images"], request["regions"], request["heads"]
    (layer, head), count = heads[0], len(images)
    left = {r: 0.9 - 0.05 * bin(r).count("1") * len(heads) - 0.01 * (layer + head) for r in regions}
    rows = [[left[r] - 0.01 * (image % 3) for image in range(count)] for r in regions]
    lost = [[0.05 * bin(r).count("1") * len(heads)] * count for r in regions]
    layers = sorted({layer for layer, _ in heads})
    whole = {"study": request["study"], "content": request["content"], "images": images, "regions": regions}
    return whole | {
        "heads": request["heads"],
        "layers": layers,
        "target": [0] * count,
        "label": [0] * count,
        "probability": lost,
        "pruned_probability": rows,
        "jsd": lost,
        "cls_distance": {str(layer): lost for layer in layers},
        "patch_distance": {str(layer): lost for layer in layers},
        "top_before": [[[0, 0.9], [1, 0.05], [2, 0.03], [3, 0.01], [4, 0.005]]] * count,
        "top_after": [
            [[[0, 0.9], [1, 0.05], [2, 0.03], [3, 0.01], [4, 0.005]]] * count if r == 0
            else [[[1, 0.5], [0, 0.3], [2, 0.1], [5, 0.05], [3, 0.01]]] * count
            for r in regions
        ],
        "undefined": {},
        "seconds": 0.1,
    } | changes  # fmt: skip


class FakeLedger:
    """Jobs and results in dicts."""

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
        self.ledger: Any = FakeLedger()
        self.answers = answers
        self.asked: list[Request] = []

    def submit(self, request: Request, who: str) -> Submitted:
        request = checked(request)
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

    def finish(self, job: str, **changes: Any) -> None:
        """Give a job its result, with `changes`."""
        self.set(job, state="done", place=None)
        self.ledger.results[self.ledger.all[job].key] = made_result(self.ledger.all[job].request, **changes)

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
