"""How is the ledger's database opened, brought up to date, read and written? SQLite or PostgreSQL, by its URL.

Passwords' hashes stand in it, so its file is its owner's alone. A file that cannot be written, that is damaged, or that
was removed while it was open is no ledger: whoever asks hears so, in words.

There is one writer at a time, as in SQLite, so what a transaction decides by cannot change under it. The clock is the
database's; that of a process is never asked.
"""

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event, text
from sqlalchemy.engine import Connection, make_url

from jobs.tables import VERSION
from store.errors import DiskFullError, StoreError
from store.failpoints import hit

_BUSY_SECONDS = 30
_CLOCK = {
    "sqlite": text("SELECT (julianday('now') - 2440587.5) * 86400.0"),
    "postgresql": text("SELECT extract(epoch FROM clock_timestamp())::double precision"),
}
_ONE_WRITER = text("SELECT pg_advisory_xact_lock(4853434)")  # any number that is not another program's
_FULL = (13, "53100")  # SQLITE_FULL; PostgreSQL's disk_full
_DAMAGED = (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB; what is more exact is said in higher bits
_RESTORE = 'docs/deploy.md says how to restore it, under "A ledger that is damaged or gone"'


_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sqlite3.OperationalError)


class NewerLedgerError(StoreError, RuntimeError):
    """The ledger was made by a newer Headscope, with tables that this one does not know."""


class LedgerUnavailableError(StoreError, ConnectionError):
    """The ledger does not answer now; nothing was changed.

    Attributes:
        said: The same for whoever looks at the page, without paths.
    """

    said = "the ledger does not answer; try again in a minute"


class DamagedLedgerError(LedgerUnavailableError):
    """The ledger's file is damaged, or was removed while it was open."""

    said = "the ledger of jobs is damaged or gone; whoever runs this server can restore it. Studies can be viewed"


class ReadOnlyLedgerError(LedgerUnavailableError):
    """The ledger's file cannot be written here, so it is not read either."""

    said = "the data folder cannot be written, so there are no jobs; its studies can be viewed"


class Database:
    """The database at `url`, with the tables of this version. Threads share it, and processes that fork.

    One whose file cannot be written opens, so that studies can be viewed beside it; any use says ReadOnlyLedgerError.

    Raises:
        NewerLedgerError: It was made by a newer Headscope.
        LedgerUnavailableError: It cannot be reached, or is damaged.
    """

    def __init__(self, url: str) -> None:
        self._engine, self._file = _engine(url)
        self._clock = _CLOCK[self._engine.dialect.name]
        self._gate = _Gate()
        self._identity: tuple[int, int] | None = None
        _opened.add(self)
        if self._file is None or self._is_writable(self._file):
            if self._file is not None:
                self._identity = _private_file(self._file)
            self._migrate()

    @staticmethod
    def _is_writable(file: Path) -> bool:
        """Whether SQLite can keep its files there; it makes others beside the first."""
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.access(file.parent, os.W_OK) and (not file.exists() or os.access(file, os.R_OK | os.W_OK))

    def check_whole(self) -> None:
        """Look through all of it for damage, as far as SQLite can tell; PostgreSQL looks after itself.

        Raises:
            DamagedLedgerError: There is some.
        """
        with self.read() as (conn, _):
            if self._file is not None and (found := conn.scalar(text("PRAGMA quick_check(1)"))) != "ok":
                raise self._damaged(found)

    def copy_to(self, path: Path) -> None:
        """Write a copy into a new file that only this user can read, while others go on using the ledger.

        Raises:
            FileExistsError: There is such a file; it stays as it is.
            ValueError: It is in PostgreSQL, which has its own way.
        """
        if self._file is None:
            raise ValueError(f"the ledger {self._engine.url!r} is copied by pg_dump, PostgreSQL's own command")
        self.check_whole()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with self._told(), closing(_connect(self._file)) as source, closing(sqlite3.connect(path)) as copy:
            source.backup(copy)

    @contextmanager
    def read(self) -> Iterator[tuple[Connection, float]]:
        """A transaction that changes nothing, and the time on the database's clock."""
        with self._gate.passed(), self._told(), self._engine.connect() as conn:
            yield conn, conn.execute(self._clock).scalar_one()

    @contextmanager
    def write(self) -> Iterator[tuple[Connection, float]]:
        """A transaction that is kept if its block ends, and undone if it raises; and the time."""
        with self._gate.passed(), self._told(), self._engine.connect().execution_options(writes=True) as conn:
            with conn.begin():
                if conn.dialect.name == "postgresql":
                    conn.execute(_ONE_WRITER)
                yield conn, conn.execute(self._clock).scalar_one()
                hit("before-ledger-commit")
            hit("after-ledger-commit")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in words what stops a transaction, where it is not our mistake."""
        if self._file is not None:
            self._refuse_other_file(self._file)
        try:
            yield
        except (sa.exc.DatabaseError, sa.exc.InterfaceError, sqlite3.DatabaseError) as error:
            cause = getattr(error, "orig", error)
            code = getattr(cause, "sqlite_errorcode", None) or getattr(cause, "sqlstate", None)
            if code in _FULL:
                raise DiskFullError(f"there is no room left for the ledger {self._engine.url!r}; free some") from error
            if (isinstance(code, int) and code & 0xFF in _DAMAGED) or str(cause).startswith("no such table"):
                raise self._damaged(cause) from error
            if isinstance(error, _AWAY):
                raise LedgerUnavailableError(f"the ledger {self._engine.url!r} does not answer: {cause}") from error
            raise

    def _damaged(self, cause: object) -> DamagedLedgerError:
        return DamagedLedgerError(
            f"the ledger {self._file} is damaged ({cause}): its jobs and users cannot be read, studies can. {_RESTORE}"
        )

    def _refuse_other_file(self, file: Path) -> None:
        """Go on only with the very file that was opened: SQLite would go on with one that is no longer there."""
        if self._identity is None:
            raise ReadOnlyLedgerError(
                f"the ledger {file} cannot be written by this user, so there are no jobs here; its studies can be "
                "viewed. To have things computed, make the folder and the file writable, or give --data"
            )
        try:
            found = file.stat()
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            how = "was removed" if found is None else "was replaced"
            raise DamagedLedgerError(
                f"the ledger {file} {how} while it was in use: stop all that uses it, and start it again. {_RESTORE}"
            )

    def _migrate(self) -> None:
        with self.read() as (conn, _):
            if _version(conn) == VERSION:
                return
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        with self.write() as (conn, _):
            found = _version(conn)  # another process may have been first
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if found is not None and found not in known:
                raise NewerLedgerError(
                    f"the ledger {self._engine.url!r} has tables of version {found}, of a newer Headscope; this one "
                    f"knows them up to version {VERSION}. Update Headscope, or set HEADSCOPE_LEDGER to another ledger"
                )
            if found != VERSION:
                config.attributes["connection"] = conn
                command.upgrade(config, "head")


def plain(words: str) -> str:
    """Text that every database takes: no NUL, and no half of a character, as names of files may have."""
    return words.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _version(conn: Connection) -> Any:
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    return conn.scalar(text("SELECT version_num FROM alembic_version"))


def _engine(url: str) -> tuple[sa.Engine, Path | None]:
    """The engine, and its file if it is SQLite."""
    where = make_url(url)
    to_json = partial(json.dumps, allow_nan=False)
    if where.get_backend_name() == "postgresql":
        # A process that is stopped in the middle of a transaction is cut off, so that the others go on.
        options = f"-c lock_timeout={_BUSY_SECONDS}s -c idle_in_transaction_session_timeout={_BUSY_SECONDS // 3}s"
        arguments = {"options": options, "connect_timeout": 5}
        return sa.create_engine(where, connect_args=arguments, pool_pre_ping=True, json_serializer=to_json), None
    if where.get_backend_name() != "sqlite" or not where.database or where.database == ":memory:":
        raise ValueError(f"{where!r} is no ledger; give sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE")
    file = Path(where.database).absolute()
    engine = sa.create_engine(where, creator=partial(_connect, file), json_serializer=to_json)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where `begin` says, and tables are part of them
        _to_wal(connection)
        for pragma in ("synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        # Who begins as a reader and then writes cannot wait for another writer.
        conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("writes") else "BEGIN")

    return engine, file


def _connect(file: Path) -> sqlite3.Connection:
    """A connection to a file that is there; SQLite by itself would make one."""
    where = f"file:{quote(str(file))}?mode=rw"
    return sqlite3.connect(where, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)


def _private_file(file: Path) -> tuple[int, int]:
    """Make the ledger's file, if there is none, and have its owner alone read it; what it is told from others by.

    SQLite gives the files beside it the same mode. One that is there is not opened here: closing it would free locks.
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for each in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        with suppress(FileNotFoundError):
            if each.stat().st_mode & 0o077 and each.stat().st_uid == os.geteuid():
                each.chmod(0o600)
    found = file.stat()
    return found.st_dev, found.st_ino


def _to_wal(connection: Any) -> None:
    """Have a new file keep a write-ahead log. Where others open it too, SQLite itself does not wait for them."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


class _Gate:
    """What transactions pass through, so that a process forks between two of them and never during one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._shut = False

    @contextmanager
    def passed(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._shut)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in, and wait until nobody is inside."""
        with self._changed:
            self._shut = True
            self._changed.wait_for(lambda: not self._inside)

    def open(self) -> None:
        """Let others in again."""
        with self._changed:
            self._shut = False
            self._changed.notify_all()


_opened: "weakref.WeakSet[Database]" = weakref.WeakSet()
_kept_out: list[Database] = []


def _before_fork() -> None:
    # SQLite's locks belong to a process: a child that inherits a connection believes to hold its parent's.
    for database in list(_opened):
        database._gate.shut()
        database._engine.dispose()
        _kept_out.append(database)


def _after_fork(*, child: bool) -> None:
    while _kept_out:
        database = _kept_out.pop()
        if child:
            database._gate = _Gate()
        else:
            database._gate.open()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=partial(_after_fork, child=False),
    after_in_child=partial(_after_fork, child=True),
)
