"""How is a job asked for, and who hears of it? The ledger keeps it; the queue only rings that there is work.

A bell is a message of Celery's with the id of a job. It may be lost, doubled or late: whoever hears one asks the ledger
what is to be done, and a worker that hears none rings itself when the ledger has work that waits.
"""

import logging
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from analyses.request import AnalysisRequest
from jobs.ledger import Ledger
from jobs.requests import Request, StudyRequest, key_of, kind_of, queue_of, steps_of, to_json
from jobs.work import ENDED, Job
from store import derived
from store.settings import Settings

TASK = "headscope.work"
UNHEARD = "the queue does not answer; the job starts when it is back"

# How Celery talks to the server: what hangs is given up soon, and a bell that nobody acknowledged is rung again after
# `visibility_timeout` seconds, more than ten times the longest unit.
TRANSPORT: dict[str, Any] = {
    "socket_timeout": 2,
    "socket_connect_timeout": 1,
    "max_retries": 0,
    "visibility_timeout": 900,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """What became of a request.

    Attributes:
        job: The new job, or the one that asks for the same already.
        new: Whether it is new.
        unheard: Why no worker has heard of it yet; None if the bell was rung, or there is nothing left to do.
    """

    job: Job
    new: bool
    unheard: str | None


class Desk:
    """Where jobs are asked for and cancelled, by the page and by the command line."""

    def __init__(self, settings: Settings) -> None:
        """Open the ledger. The queue is not asked for anything yet."""
        self.settings = settings
        self.ledger = Ledger(settings.ledger_url)
        self.uses = derived.Uses(settings.derived_uses)
        self._app = celery_app(settings)

    def submit(self, request: Request, who: str) -> Submitted:
        """Have a request done, once, however often it is asked for. Answers within 5 s, whatever the queue does.

        Raises:
            ValueError: It asks for a study that another job is writing.
            TooManyJobsError: `who` has too many jobs that wait or run.
        """
        kind = kind_of(request)
        job, new = self.ledger.submit(
            kind,
            queue_of(kind),
            to_json(request),
            key_of(request),
            request.title,
            who,
            steps_of(request),
            answered_once=self._has_result(kind, request),
            study=request.study if isinstance(request, StudyRequest) else None,
            most=self.settings.jobs_per_user,
        )
        return Submitted(job, new, None if job.state in ENDED else self.ring(job.queue, job.id))

    def _has_result(self, kind: str, request: Request) -> bool:
        """Whether what was asked for lies in the store, so that the job that computed it answers for good."""
        if not isinstance(request, AnalysisRequest):
            return False
        try:
            return derived.is_whole(derived.path_of(self.settings.studies, kind, request))
        except ValueError:  # what it names can be no study: the worker says so
            return False

    def cancel(self, job_id: str, who: str) -> Job:
        """Cancel a job for good, and have a worker free what it took. A job that has ended stays as it is.

        Raises:
            JobNotFoundError: There is no such job.
        """
        job = self.ledger.cancel(job_id, who)
        if self.ledger.ready(job.queue):
            self.ring(job.queue, job_id)
        return job

    def ring(self, queue: str, job_id: str) -> str | None:
        """Say that there is work in `queue`. None, or why nobody heard."""
        return ring(self._app, queue, job_id)


def ring(app: Celery, queue: str, job_id: str | None = None) -> str | None:
    """Say that there is work in `queue`, for the sake of a job or of none. None, or why nobody heard."""
    try:
        # A connection of its own: one that is kept does not know that the server's data was wiped meanwhile.
        with app.connection_for_write() as connection:
            app.send_task(TASK, [job_id], queue=queue, connection=connection, retry=False, ignore_result=True)
    except (OperationalError, RedisError, OSError) as error:
        _log.warning("the bell for %s is not heard: %s", queue, error)
        return UNHEARD
    return None


def ring_on(app: Celery, ledger: Ledger, queue: str) -> bool:
    """Ring if there is work in `queue` and no bell waits: one is enough, as whoever hears it rings for the next.

    Returns:
        Whether there is work, and a bell waited for it already.
    """
    if not ledger.ready(queue):
        return False
    try:
        with app.connection_for_read() as connection:
            waiting = connection.default_channel.queue_declare(queue).message_count
    except (OperationalError, RedisError, OSError) as error:
        _log.warning("the queue %s does not answer: %s", queue, error)
        return False
    if not waiting:
        ring(app, queue)
    return bool(waiting)


def celery_app(settings: Settings) -> Celery:
    """Celery as Headscope uses it: messages in JSON, no results, nothing asked of other workers."""
    app = Celery("headscope", set_as_current=False, include=["workers.tasks"])
    app.conf.update(
        broker_read_url=settings.broker_url,
        broker_write_url=settings.broker_url,
        broker_transport_options=TRANSPORT,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_create_missing_queues=True,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_proc_alive_timeout=120,
    )
    return app
