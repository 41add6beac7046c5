"""How does one unit of a job come to its end? A worker does it under its lease, and the ledger hears what became of it.

A second thread renews the lease and sees whether the unit is still wanted; the doer learns of it at its next `check`.
"""

import logging
import os
import re
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from jobs.database import LedgerUnavailableError
from jobs.ledger import Ledger
from jobs.work import CancelledError, Lease, Step
from store.errors import DiskFullError, LostLeaseError, StudyBusyError
from store.settings import Settings
from workers import doers

# Seconds: between two renewals of a lease, which holds for 30; between two looks whether the unit is still wanted; and
# until a doer that does not stop is stopped with its process.
RENEW_SECONDS = 5.0
LOOK_SECONDS = 1.0
STOP_SECONDS = 60.0
# Seconds until a unit is tried again that could not be done for want of room, or of its turn.
FULL_SECONDS = 30.0
BUSY_SECONDS = 10.0

LOG_LINES = 40
# Exit codes of a process that must not do another unit; the ledger knows already what became of the one it did.
SPOILED, STUCK = 70, 71

# After such an error, every later call of CUDA in the same process fails too.
_STICKY = re.compile(r"CUDA error|AcceleratorError|CUBLAS_STATUS_|CUDNN_STATUS_|NCCL error")

_log = logging.getLogger(__name__)


class MistakeError(ValueError):
    """What was asked for cannot be done, and doing it again would not help. The text is for the person who asked.

    Attributes:
        field: Of the request, that has to be changed; None if it is not one field.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class DeclineError(RuntimeError):
    """The unit cannot be done now, or not by this worker; it may be taken again in some seconds."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class UnfitError(DeclineError):
    """This worker would compute something else than was planned, however often it tries; another may fit."""


class HandBackError(LostLeaseError):
    """The worker is asked to stop: the unit is another's to take at once."""


class Work:
    """A unit's side of the ledger, for its doer. All of it raises LostLeaseError and CancelledError once they hold."""

    def __init__(self, settings: Settings, ledger: Ledger, lease: Lease) -> None:
        self.settings = settings
        self.ledger = ledger
        self.finished = False
        self.how_far: tuple[int, int, str] = (0, 0, "")
        self._lease = lease
        self._stop: Exception | None = None

    def check(self) -> None:
        """Call it between batches: it costs nothing, and raises when the unit must stop."""
        if self._stop is not None:
            raise self._stop

    def progress(self, done: int, total: int, counted: str = "") -> None:
        """Say how far the unit is, for people; the ledger hears it with the next heartbeat."""
        self.how_far = (done, total, counted)

    def hold(self) -> None:
        """The check of the fencing number, just before something is placed."""
        self.check()
        self.ledger.hold(self._lease)

    def plan(self, steps: Sequence[Step], facts: dict[str, Any]) -> None:
        """Add units of later phases to the job, and facts."""
        self.ledger.plan(self._lease, steps, facts)

    def note(self, facts: dict[str, Any]) -> None:
        """Add facts to the job's."""
        self.ledger.note(self._lease, facts)

    def finish(self, facts: dict[str, Any] | None = None, result: dict[str, Any] | None = None) -> None:
        """The unit is done: facts of the unit, and the result of the job where this unit has it."""
        self.ledger.finish(self._lease, facts, result)
        self.finished = True

    def stop(self, why: Exception) -> None:
        """Have `check` raise `why` from now on."""
        self._stop = why

    @property
    def is_stopped(self) -> bool:
        """Whether `check` raises."""
        return self._stop is not None


def run_unit(
    settings: Settings,
    ledger: Ledger,
    lease: Lease,
    doer: Callable[[str], doers.Doer] = doers.doer,
    began: Callable[[Work], None] = lambda work: None,
    leave: Callable[[int], object] = os._exit,
) -> None:
    """Do the unit of `lease`, and tell the ledger what became of it. Errors of the unit do not come out.

    Args:
        doer: Gives what does the units of a kind.
        began: Called with the unit's Work: through its `stop`, others can stop it.
        leave: Ends this process, when it must not do another unit.
    """
    work = Work(settings, ledger, lease)
    began(work)
    name = f"{lease.step.name!r} of {lease.kind} {lease.job}, lease {lease.fence}"
    _log.info("begins %s", name)
    since = monotonic()
    with _last_lines() as lines, _heartbeat(work, lease, leave):
        error = _error_of(doer, lease, work)
    try:
        _tell(ledger, lease, error, lines)
    except (LostLeaseError, CancelledError) as lost:
        error = lost
    except Exception:  # noqa: BLE001  the ledger is away: the lease lapses, and another worker takes the unit
        _log.exception("the ledger cannot be told what became of %s", name)
    _log.info("%s %s after %.1f s", "ended" if error is None else f"left ({error})", name, monotonic() - since)
    if error is not None and _is_sticky(error):
        _log.error("this process cannot use its device any more; a new one takes its place")
        leave(SPOILED)


def _error_of(doer: Callable[[str], doers.Doer], lease: Lease, work: Work) -> Exception | None:
    try:
        doer(lease.kind)(lease, work)
        if not work.finished:
            raise RuntimeError(f"the doer of {lease.kind} returned without work.finish()")
    except Exception as error:  # noqa: BLE001  whatever it is, it is the unit's outcome
        return error
    return None


def _tell(ledger: Ledger, lease: Lease, error: Exception | None, lines: Sequence[str]) -> None:
    """Tell the ledger how the unit ended, unless it knows."""
    match error:
        case None:
            return
        case HandBackError():
            ledger.decline(lease, str(error), 0)
        case LostLeaseError():
            return
        case CancelledError():
            ledger.decline(lease, str(error), 0)
        case UnfitError():
            ledger.decline(lease, str(error), error.seconds, unfit=True)
        case DeclineError():
            ledger.decline(lease, str(error), error.seconds)
        case DiskFullError():
            ledger.decline(lease, str(error), FULL_SECONDS)
        case StudyBusyError() | LedgerUnavailableError():
            ledger.decline(lease, str(error), BUSY_SECONDS)
        case MistakeError():
            ledger.fail(lease, str(error), final=True)
        case _:
            trace = "".join(traceback.format_exception(error)).splitlines()
            cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            ledger.fail(lease, cause, "\n".join([*lines, *trace][-LOG_LINES:]))


def _is_sticky(error: BaseException) -> bool:
    """Whether it, or what led to it, leaves CUDA unusable for this process."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    return any(_STICKY.search(f"{type(each).__name__}: {each}") for each in chain)


@contextmanager
def _heartbeat(work: Work, lease: Lease, leave: Callable[[int], object]) -> Iterator[None]:
    """Renew the lease, and stop the work when it is lost or cancelled, from a thread of its own."""
    over = threading.Event()

    def beat() -> None:
        renewed, told = monotonic(), work.how_far
        while not over.wait(LOOK_SECONDS):
            if work.is_stopped:
                if not over.wait(STOP_SECONDS):
                    _log.critical("the unit does not stop; this process is ended in its place")
                    leave(STUCK)
                return
            try:
                if monotonic() - renewed >= RENEW_SECONDS:
                    told = work.how_far
                    work.ledger.renew(lease, *told)
                    renewed = monotonic()
                else:
                    work.ledger.check(lease)
            except (LostLeaseError, CancelledError) as why:
                work.stop(why)
            except Exception:  # noqa: BLE001  the ledger is away for now: `hold` decides before anything is placed
                _log.warning("no heartbeat: the ledger does not answer", exc_info=True)

    thread = threading.Thread(target=beat, name=f"heartbeat of {lease.fence}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _last_lines() -> Iterator[deque[str]]:
    """The last lines that are logged in the meantime, as they come."""
    lines: deque[str] = deque(maxlen=LOG_LINES)
    handler = logging.Handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.emit = lambda record: lines.extend(handler.format(record).splitlines())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
