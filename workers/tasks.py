"""What does a worker do? Its child computes a unit when a bell rings; its main process sees that none is forgotten.

The child is an interpreter of its own, so it can die of a unit, or of its device, and a new one takes its place. The
main process never loads torch.
"""

import faulthandler
import logging
import multiprocessing
import os
import platform
import re
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NoReturn

import psutil
from celery import Celery, Task, current_app, shared_task
from celery.exceptions import InvalidTaskError, WorkerLostError
from celery.platforms import SecurityWarning
from celery.signals import task_failure, worker_process_init, worker_shutting_down
from celery.worker import WorkController, state
from celery.worker.strategy import default

from jobs import old_results, sweep
from jobs.client import TASK, celery_app, ring_on
from jobs.ledger import Ledger
from jobs.requests import INTERACTIVE, QUEUES
from store.bucket import Bucket
from store.exchange import Follower
from store.settings import Settings
from workers import doers
from workers.runner import HandBackError, Work, run_unit

# Seconds: between two looks at what may be forgotten; between two signs of life; and between two requests to stop.
LOOK_SECONDS = 5.0
HERE_SECONDS = 5.0
STOP_SECONDS = 0.5
# Between two looks at private studies whose time is over.
TIDY_SECONDS = 60.0
# A main process hears of its child's death by itself, with the cause; after so many seconds others tell the ledger.
ORPHAN_SECONDS = 15.0
# A bell that waits so long for an idle worker is not heard. After an outage Celery may wait 30 s before it connects.
DEAF_SECONDS = 45.0
DEAF = 72  # exit code

# Where Celery's configuration keeps ours, as its children have nothing else from their parent.
_OURS = "headscope"
# Signals that come from outside: what they end is lost, through no fault of its own.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

_log = logging.getLogger(__name__)
for _name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # they say of every bell that it came and went


def run_worker(settings: Settings, queue: str, name: str) -> int:
    """Work for `queue` until SIGTERM or Ctrl-C; the exit code. A unit that is under way then is another's at once.

    Args:
        name: Of this worker; no two that are alive may share it.
    Raises:
        ValueError: There is no such queue.
        BucketError: The settings' bucket cannot be one.
    """
    if queue not in QUEUES:
        raise ValueError(f"there is no queue {queue!r}; there are {' and '.join(QUEUES)}")
    follower = Follower(Bucket(settings.bucket), settings.studies) if settings.bucket else None
    ledger = Ledger(settings.ledger_url)
    app, main = celery_app(settings), _process(os.getpid())
    ours = {"settings": settings.model_dump(mode="json"), "queue": queue, "name": name, "main": main}
    app.conf.update({_OURS: ours, "worker_pool_start_method": "spawn", "worker_redirect_stdouts": False})
    warnings.simplefilter("ignore", SecurityWarning)  # it tells root to give options that are not there
    worker = app.Worker(
        hostname=name,
        queues=[queue],
        loglevel="INFO",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )

    watch = Watch(app, ledger, queue)

    def hear_of_death(exception: BaseException, **_: Any) -> None:
        if isinstance(exception, WorkerLostError):
            cause, counts = cause_of_death(str(exception), starved=watch.starved())
            _log.error("%s", cause)
            ledger.crashed(main, cause, counts=counts)
            ring_on(app, ledger, queue)

    def hand_back(**_: Any) -> None:
        threading.Thread(target=_stop_children, args=(worker,), name="stop", daemon=True).start()

    task_failure.connect(hear_of_death)
    worker_shutting_down.connect(hand_back)
    tidy = partial(sweep.sweep, settings, ledger)
    threading.Thread(target=_every, args=(LOOK_SECONDS, watch.look), name="watch", daemon=True).start()
    threading.Thread(target=_every, args=(TIDY_SECONDS, tidy), name="tidy", daemon=True).start()
    if queue == INTERACTIVE:
        threading.Thread(target=old_results.move, args=(settings, ledger), name="move", daemon=True).start()
    if follower is not None:
        threading.Thread(target=follower.keep_looking, name="pull", daemon=True).start()
    worker.start()
    return int(worker.exitcode or 0)


def wary(task: Task, app: Celery, consumer: Any, **other: Any) -> Callable[..., Any]:
    """Celery's way of hearing a message; but one that it stumbles over is refused, as it would end the worker."""
    hear = default(task, app, consumer, **other)

    def handler(*message: Any, **about: Any) -> Any:
        try:
            return hear(*message, **about)
        except Exception as error:  # a stranger wrote it: whatever it makes Celery raise, it is no bell
            raise InvalidTaskError(f"this is no bell: {error}") from error

    return handler


@shared_task(name=TASK, bind=True, Strategy=f"{__name__}:{wary.__name__}")
def work(task: Task, job: str | None = None) -> None:
    """Do the unit that is next, if there is any: `job` is only who rang."""
    _child(task.app).hear()


class Child:
    """The process that computes."""

    def __init__(self, app: Celery) -> None:
        ours = app.conf[_OURS]
        self.app = app
        self.settings = Settings(**ours["settings"])
        self.queue: str = ours["queue"]
        self.main: str = ours["main"]
        self.worker = f"{ours['name']} {_machine()} {self.main} {_process(os.getpid())}"
        self.ledger = Ledger(self.settings.ledger_url)
        self.work: Work | None = None
        # Celery's pool puts a process of its own kind, which may start no others, in the place of the standard
        # library's; decoding pictures starts some.
        key = multiprocessing.process.AuthenticationString(os.urandom(32))  # type: ignore[attr-defined]
        multiprocessing.current_process()._config |= {"daemon": False, "authkey": key}  # type: ignore[attr-defined]
        device = doers.make_ready(self.settings, self.queue, self.ledger)
        say = partial(self.ledger.here, ours["name"], self.queue, device)
        threading.Thread(target=_every, args=(HERE_SECONDS, say), name="here", daemon=True).start()

    def hear(self) -> None:
        """Take the unit that is next and do it; ring for the others."""
        lease = self.ledger.take(self.queue, self.worker, self.main)
        if lease is None:
            return
        self._ring_on()
        before = signal.signal(signal.SIGTERM, lambda number, frame: self._hand_back())
        try:
            run_unit(self.settings, self.ledger, lease, began=self._on_begin, leave=self._leave)
        finally:
            signal.signal(signal.SIGTERM, before)
            self.work = None
        self._ring_on()

    def _on_begin(self, work: Work) -> None:
        self.work = work

    def _hand_back(self) -> None:
        if self.work is not None:
            self.work.stop(HandBackError("its worker was stopped"))

    def _leave(self, code: int) -> NoReturn:
        self._ring_on()
        os._exit(code)

    def _ring_on(self) -> None:
        try:
            ring_on(self.app, self.ledger, self.queue)
        except Exception:  # noqa: BLE001  a unit is under way: the watch of a main process rings in its place
            _log.warning("no bell: the ledger does not answer", exc_info=True)


_children: list[Child] = []  # this process, once it is ready


def _child(app: Celery) -> Child:
    if not _children:
        _children.append(Child(app))
    return _children[0]


@worker_process_init.connect
def _begin(**_: Any) -> None:
    """Get ready before the first bell. What fails is said, and tried again at the next bell."""
    faulthandler.enable()
    _child(current_app._get_current_object())


class Watch:
    """Sees that no unit is forgotten: not with a process that died, not for want of a bell, not by a deaf worker."""

    def __init__(self, app: Celery, ledger: Ledger, queue: str) -> None:
        self._app, self._ledger, self._queue = app, ledger, queue
        self._childless: dict[int, float] = {}  # leases of dead children, and when they were seen first
        self._deaf_since: float | None = None
        self._starved = [starved_processes()] * 2  # at the last look, and at the one before

    def look(self) -> None:
        """Look once."""
        self._starved = [starved_processes(), self._starved[0]]
        self._ledger.reap()
        gone = {fence: _gone(worker) for fence, worker in self._ledger.leases()}
        now = monotonic()
        self._childless = {f: self._childless.get(f, now) for f, what in gone.items() if what == "child"}
        for fence, what in gone.items():
            if what == "main" or now - self._childless.get(fence, now) > ORPHAN_SECONDS:
                self._ledger.lose(fence, "its process died")
        unheard = ring_on(self._app, self._ledger, self._queue)
        if not unheard or state.reserved_requests:
            self._deaf_since = None
        elif self._deaf_since is None:
            self._deaf_since = now
        elif now - self._deaf_since > DEAF_SECONDS:
            _log.critical("bells are not heard here any more; this worker ends, for another to be started in its place")
            os._exit(DEAF)

    def starved(self) -> bool:
        """Whether the system ended a process for want of memory in the last seconds."""
        return starved_processes() > self._starved[1]


def starved_processes() -> int:
    """How many processes the system has ended for want of memory; 0 where it does not count them."""
    try:
        said = Path("/proc/vmstat").read_text()
    except OSError:  # not Linux
        return 0
    found = re.search(r"^oom_kill (\d+)$", said, re.MULTILINE)
    return int(found[1]) if found else 0


def _every(seconds: float, do: Callable[[], object]) -> NoReturn:
    while True:
        try:
            do()
        except Exception:  # noqa: BLE001  the ledger is away for now; this thread must outlive that
            _log.warning("the ledger does not answer; trying again", exc_info=True)
        sleep(seconds)


def _stop_children(worker: WorkController) -> NoReturn:
    """Ask the children to hand back their units, or to end if they have none, until this process ends."""
    while True:
        with suppress(AttributeError, ProcessLookupError):  # the pool has no processes any more, or one has just ended
            for pid in worker.pool.info["processes"]:
                os.kill(pid, signal.SIGTERM)
        sleep(STOP_SECONDS)


def cause_of_death(said: str, *, starved: bool) -> tuple[str, bool]:
    """What killed a child, for people; and whether that counts as the unit's own fault.

    Args:
        said: What Celery says of it.
        starved: Whether the system ended a process for want of memory just then.
    """
    if found := re.search(r"signal (\d+)", said):
        number = signal.Signals(int(found[1]))
        if number == signal.SIGKILL and starved:
            return "out of memory: the system ended its process; it needs a machine with more memory", True
        means = signal.strsignal(number) or "?"
        return f"its process was ended by {number.name} ({means.lower()})", number not in _FROM_OUTSIDE
    found = re.search(r"exitcode (-?\d+)", said)
    return f"its process ended with exit code {found[1]}" if found else said, True


def _machine() -> str:
    """Where process ids mean the same: one boot of one machine, and in it one container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return platform.node() or "?"


def _process(pid: int) -> str:
    """A process, told from every other that had its number or will have it."""
    return f"{pid}/{_born(pid)}"


def _born(pid: int) -> str | None:
    """When a process began, on a clock that nobody sets; None if it is dead."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]  # state, and ticks since the machine was started
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _gone(worker: str) -> str | None:
    """Which process of a worker is dead for certain: its "main", or only its "child"."""
    *_, machine, main, child = ["", "", "", *worker.split()]
    if machine != _machine():
        return None  # its lease will lapse
    for what, process in (("main", main), ("child", child)):
        if _process(int(process.partition("/")[0])) != process:
            return what
    return None
