"""What is left of dropped pictures that nobody wants any more, and how does it go?"""

import logging
import shutil
import time

from jobs import uploads
from jobs.ledger import Ledger
from jobs.work import ENDED
from store import paths, pictures
from store.errors import StoreError
from store.settings import Settings
from store.study import delete

STALE_SECONDS = 3600.0  # after which a picture that does not come on is given up

_log = logging.getLogger(__name__)


def sweep(settings: Settings, ledger: Ledger) -> None:
    """Remove private studies whose time is over, and what is left of pictures that will not become one."""
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


def sweep_uploads(settings: Settings, ledger: Ledger) -> None:
    """Remove pictures whose job has ended, or that do not come on."""
    uploads.remove_remains(settings.pictures)
    waiting = uploads.every(settings.pictures)
    jobs = {str(job.request.get("upload")): job for job in reversed(ledger.jobs(kinds=["image"]))} if waiting else {}
    for upload in waiting:
        job = jobs.get(upload.id)
        if job.state in ENDED if job else time.time() - upload.made > STALE_SECONDS:
            uploads.remove(upload)
