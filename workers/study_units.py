"""How does the queue compute a study? A unit at a time: the plan, then its pieces by any workers, or what a cancelled
job leaves.

What is finished is known by the study's own files, so a unit that was taken twice is done once. A unit is known by its
name, whichever version planned it. A worker that would not compute the very same as the plan says leaves it to others.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from jobs.ledger import CLEAN
from jobs.requests import StudyRequest, from_json
from jobs.work import CancelledError, Lease, Step
from store import exchange, paths
from store.attempt import Attempt, forget
from store.bucket import Bucket, BucketConflictError, BucketError
from store.errors import DiskFullError, LostLeaseError, StoreError, StudyBusyError, StudyNotFoundError
from store.manifest import Manifest
from store.record import plan_record
from workers import study as pipeline
from workers.decode import ImageChangedError
from workers.prepare import Prepared, Progress, prepare
from workers.refusals import field_of
from workers.runner import DeclineError, MistakeError, UnfitError, Work

# Names of units that are no steps of the pipeline; the push is planned where there is a bucket.
PLAN, PUSH = "plan", "push"
# Seconds until a unit is tried again: there is no room, another writer, this worker alone or the bucket is the matter.
FULL, BUSY, OTHER, AWAY = 15, 5, 15, 60

# What people call the parts of a plan: those of which only a hash is known, and others.
_OTHERS = {"images": "the pictures", "labels": "the classes of the pictures", "weights": "the weights"}
_NAMES = {"torch": "PyTorch", "numpy": "NumPy", "device": "the device", "schema": "the version of the store's layout"}

# What each job needs in memory, of the last jobs in this process; so a job is prepared once in each.
KEPT_JOBS = 2
_prepared: LRUCache[str, Prepared] = LRUCache(KEPT_JOBS)


def do(lease: Lease, work: Work) -> None:
    """Any unit of a study's job."""
    request = from_json(lease.kind, lease.request)
    assert isinstance(request, StudyRequest)
    try:
        {PLAN: plan, PUSH: push, CLEAN.name: clean}.get(lease.step.name, unit)(lease, work, request)
    except DiskFullError as error:
        lacks = str(error).removeprefix("disk full: ").partition("; make room")[0]
        raise DeclineError(f"disk full: {lacks}; the job goes on when there is room", FULL) from error
    except StudyBusyError as error:
        raise DeclineError(str(error), BUSY) from error
    except ImageChangedError as error:
        _prepared.pop(lease.job, None)
        raise UnfitError(str(error), OTHER) from error


def plan(lease: Lease, work: Work, request: StudyRequest) -> None:
    """Prepare the study, begin or resume its attempt, and tell the ledger what is to be done."""
    try:
        prepared = _prepare(lease, work, request)
        known = pipeline.published(prepared)
    except ValueError as error:
        field = field_of(error, request)
        if field is None:
            raise
        raise MistakeError(str(error), field) from error
    facts = {"study": prepared.study.name, "images": len(prepared.kept)}
    if known is not None and not pipeline.missing(prepared):
        work.note(facts)
        work.finish(result=_result(known))
        return
    work.hold()
    with pipeline.begin(prepared, lease.job) as attempt:  # nobody can join it before the ledger has the plan
        try:
            work.hold()
            steps = pipeline.steps(prepared, attempt)
            if work.settings.bucket:
                steps.append(Step(steps[-1].phase + 1, 0, PUSH))
            work.plan(steps, facts | {"attempt": attempt.number})
        except CancelledError:
            attempt.discard()
            raise
        except LostLeaseError:
            if not attempt.resumed:  # else it is the next one's, who finds it
                attempt.discard()
            raise
    work.finish()


def unit(lease: Lease, work: Work, request: StudyRequest) -> None:
    """Do one piece of the plan, unless it is done; after the first images, tell the price."""
    folder = paths.study_path(work.settings.studies, request.study)
    manifest = _published(folder, lease.facts["attempt"])
    if manifest is not None:  # by a process that died since
        shutil.rmtree(paths.work_path(folder, manifest.number), ignore_errors=True)
    else:
        prepared = _prepare_alike(lease, work, request, folder)
        attempt = Attempt.join(folder, prepared.plan, lease.fence)
        if attempt is None:
            raise StoreError(
                f"attempt-{lease.facts['attempt']} of study {folder.name} is not as it was begun: files are gone or "
                "cut short; ask for the study again"
            )
        with attempt:
            pipeline.do(lease.step, prepared, attempt, _progress(work), work.check, work.hold)
            images = pipeline.unit_of(lease.step, attempt)
            if images is not None and "price" not in lease.facts:
                price = pipeline.price_of(prepared, attempt, images)
                pipeline.refuse_small_disk(prepared, price.bytes)
                work.note({"price": asdict(price)})
        manifest = _published(folder, lease.facts["attempt"])
    work.finish(result=None if manifest is None else _result(manifest))


def push(lease: Lease, work: Work, request: StudyRequest) -> None:
    """Push the study, which is published, to the bucket; as often as that takes."""
    folder = paths.study_path(work.settings.studies, request.study)
    try:
        exchange.push(
            Bucket(work.settings.bucket), folder, lambda done, of: work.progress(done, of, "bytes"), work.check
        )
    except BucketConflictError as error:
        raise MistakeError(f"the study is published here, but not pushed: {error}") from error
    except BucketError as error:
        raise DeclineError(f"published, but not pushed yet: {error}", AWAY) from error
    except StudyNotFoundError:
        pass  # removed meanwhile: there is nothing to push
    work.finish()


def clean(lease: Lease, work: Work, request: StudyRequest) -> None:
    """Remove what a cancelled job began: never what is published, nor what another run goes on with."""
    work.hold()
    folder = paths.study_path(work.settings.studies, request.study)
    forget(folder, lambda number, begun: begun.get("job") == lease.job)
    _prepared.pop(lease.job, None)
    work.finish()


def _prepare(lease: Lease, work: Work, request: StudyRequest) -> Prepared:
    prepared = _prepared.get(lease.job)
    if prepared is None:
        prepared = _prepared[lease.job] = prepare(request, work.settings, _progress(work))
    return prepared


def _prepare_alike(lease: Lease, work: Work, request: StudyRequest, folder: Path) -> Prepared:
    """The study prepared as its attempt's plan says.

    Raises:
        UnfitError: This worker would compute something else.
        MistakeError: The attempt is gone.
    """
    record = plan_record(folder, lease.facts["attempt"])
    if record is None:
        raise MistakeError(f"what was computed of study {folder.name} was removed meanwhile; ask for the study again")
    try:
        prepared = _prepare(lease, work, request)
    except ValueError as error:
        if field_of(error, request) is None:
            raise
        raise UnfitError(f"what was planned cannot be done here: {error}", OTHER) from error
    planned = record["plan"]
    if {**prepared.plan, "batch": None} != {**planned, "batch": None}:
        _prepared.pop(lease.job)  # what differs may be mended
        raise UnfitError(_difference(prepared.plan, planned), OTHER)
    if prepared.plan["batch"] != planned["batch"]:
        prepared.use_batch(*planned["batch"])
    return prepared


def _difference(here: dict[str, Any], planned: dict[str, Any]) -> str:
    """In what two plans differ, for people."""
    said = []
    for part in dict.fromkeys((*here, *planned)):
        ours, theirs = here.get(part), planned.get(part)
        if ours == theirs or part == "batch":
            continue
        if part in _OTHERS:
            said.append(f"{_OTHERS[part]} are not those that this job was planned with")
        elif isinstance(ours, dict) and isinstance(theirs, dict):
            said += [_change(name, theirs.get(name), ours.get(name)) for name in dict.fromkeys((*ours, *theirs))]
        else:
            said.append(_change(part, theirs, ours))
    return "; ".join(filter(None, said))


def _change(name: str, then: object, now: object) -> str:
    """What became of one thing since the plan; empty if it is the same."""
    if then == now:
        return ""
    return f"{_NAMES.get(name, name)} was {str(then)[:80]} when this job was planned and is {str(now)[:80]} now"


def _published(folder: Path, attempt: int) -> Manifest | None:
    """The study's manifest, if it is that attempt which is published."""
    try:
        manifest = Manifest.load(folder)
    except StudyNotFoundError:
        return None
    return manifest if manifest.number == attempt else None


def _result(manifest: Manifest) -> dict[str, Any]:
    return {"study": manifest.study, "content": manifest.content}


def _progress(work: Work) -> Progress:
    def tell(stage: str, done: int, of: int, counted: str) -> None:
        work.progress(done, of, counted)
        work.check()

    return tell
