"""In which words do the ledger and those who use it speak of work? Jobs, their steps, and leases on them."""

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Step:
    """A unit of a job, to be: what is done at a time, by one worker.

    Attributes:
        phase: Units of a phase wait for all of the phases below it. It orders units, and tells nothing else of them.
        number: Within the phase.
        name: What it does, by which people and workers know it: "plan", "images 0 to 15", "patch-map", "publish".
            No two units of a job share it.
        images: How many images it finishes; 0 if it is not of images.
    """

    phase: int
    number: int
    name: str
    images: int = 0


@dataclass(frozen=True)
class Lease:
    """The right of one worker to do one unit, for as long as it is renewed.

    Attributes:
        fence: The fencing number: of two leases on a unit, the later has the higher.
        job: Id of the job.
        kind: Of the job.
        key: By which the job's request is known; its result is kept under it.
        request: Of the job, in plain JSON.
        step: The unit.
        facts: What the plan noted of the job.
    """

    fence: int
    job: str
    kind: str
    key: str
    request: dict[str, Any]
    step: Step
    facts: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One job, as it is now. Times are seconds since 1970 on the ledger's clock.

    Attributes:
        place: Jobs of its queue that come before it; None unless it is queued.
        units_done, units_total: Of all units known so far; a study's are known when its plan is done.
        images_done, images_total: Of the units of images.
        stage: Name of the unit that is being done, or is next; of several, the first.
        stage_done, stage_total, counted: How far that one unit is, and what it is counted in.
        workers: How many units are being done now.
        images_per_second: Over the units of images finished in the last minutes; None before the first.
        eta: Seconds until all units of images are done, at that rate; None once they are.
        beat: When a worker was last heard of.
        cause: Why it failed, or who cancelled it.
        log: The last lines of what the failing worker said.
        note: Why it waits, if it does: the disk is full, no room in memory …
        facts: What the plan noted, such as the price.
    """

    id: str
    kind: str
    queue: str
    key: str
    request: dict[str, Any]
    title: str
    who: str
    state: State
    submitted: float
    started: float | None
    finished: float | None
    place: int | None
    units_done: int
    units_total: int
    images_done: int
    images_total: int
    stage: str | None
    stage_done: int
    stage_total: int
    counted: str
    workers: int
    images_per_second: float | None
    eta: float | None
    beat: float | None
    cause: str | None
    log: str | None
    note: str | None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerSeen:
    """A worker process that said it is there, lately."""

    name: str
    queue: str
    device: str
    seen: float


class CancelledError(RuntimeError):
    """The job was cancelled; stop, and leave nothing behind."""


class JobNotFoundError(LookupError):
    """The ledger has no such job."""


class TooManyJobsError(ValueError):
    """The person has as many jobs waiting or running as one may have."""


class StudyAskedError(ValueError):
    """Another request that is waiting or running will write the study of that name."""

    def __init__(self, message: str, job: str) -> None:
        super().__init__(message)
        self.job = job  # its id
