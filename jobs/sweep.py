"""What nobody wants any more of dropped pictures, and of what was asked for, and how does it go?"""

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from analyses import registry
from analyses.request import AnalysisRequest
from jobs import uploads
from jobs.ledger import Ledger
from jobs.requests import from_json
from jobs.work import ENDED, Job
from store import derived, paths, pictures
from store.errors import StoreError
from store.settings import Settings
from store.study import delete

STALE_SECONDS = 3600.0  # after which a picture that does not come on is given up

_MOST_JOBS = 10_000  # that are looked at: the live ones come first

_log = logging.getLogger(__name__)


def sweep(settings: Settings, ledger: Ledger) -> None:
    """Remove private studies whose time is over, what is left of pictures that will not become one, and results that
    were not used for longest, beyond their quota."""
    for name, said in pictures.every(settings.studies).items():
        if said.until <= time.time():
            try:
                delete(paths.study_path(settings.studies, name))
            except (StoreError, OSError) as error:  # of two workers one may be faster
                _log.info("the private study %s is over, and not removed: %s", name, error)
    sweep_uploads(settings, ledger)
    for folder in (settings.studies / pictures.STAGING).glob("*-*"):
        if uploads.find(settings.pictures, folder.name.partition("-")[0]) is None:
            shutil.rmtree(folder, ignore_errors=True)
    sweep_results(settings, ledger)


def sweep_results(settings: Settings, ledger: Ledger) -> None:
    """Remove what is left of results whose jobs have ended, and drop those beyond the quota."""

    def live() -> list[Job]:
        return [job for job in ledger.jobs(_MOST_JOBS, registry.on_request()) if job.state not in ENDED]

    derived.remove_remains(settings.studies, lambda: {job.id for job in live()})
    uses, most = derived.Uses(settings.derived_uses), settings.derived_quota_gb * 1e9
    if dropped := derived.keep_within(settings.studies, uses, most, lambda: set(_written(live(), settings))):
        _log.info(
            "%d results that were not used for longest are dropped: %.1f GB is their quota", len(dropped), most / 1e9
        )


def _written(jobs: list[Job], settings: Settings) -> Iterator[Path]:
    """Where jobs write their results."""
    for job in jobs:
        try:
            request = from_json(job.kind, job.request)
            if isinstance(request, AnalysisRequest):
                yield derived.path_of(settings.studies, job.kind, request)
        except ValueError:  # of another version; it will fail in words
            continue


def sweep_uploads(settings: Settings, ledger: Ledger) -> None:
    """Remove pictures whose job has ended, or that do not come on."""
    uploads.remove_remains(settings.pictures)
    waiting = uploads.every(settings.pictures)
    jobs = {str(job.request.get("upload")): job for job in reversed(ledger.jobs(kinds=["image"]))} if waiting else {}
    for upload in waiting:
        job = jobs.get(upload.id)
        if job.state in ENDED if job else time.time() - upload.made > STALE_SECONDS:
            uploads.remove(upload)
