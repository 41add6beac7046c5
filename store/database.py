"""How is the ledger's database opened, brought up to date, read and written? SQLite or PostgreSQL, by its URL.

There is one writer at a time, as in SQLite, so what a transaction decides by cannot change under it. The clock is the
database's; that of a process is never asked.
"""

import contextlib
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, text
from sqlalchemy.engine import Connection, make_url

from store.errors import DiskFullError, StoreError
from store.failpoints import hit
from store.tables import VERSION

_BUSY_SECONDS = 30
_CLOCK = {
    "sqlite": text("SELECT (julianday('now') - 2440587.5) * 86400.0"),
    "postgresql": text("SELECT extract(epoch FROM clock_timestamp())::double precision"),
}
_ONE_WRITER = text("SELECT pg_advisory_xact_lock(4853434)")  # any number that is not another program's
_FULL = (13, "53100")  # SQLITE_FULL; PostgreSQL's disk_full


class NewerLedgerError(StoreError, RuntimeError):
    """The ledger was made by a newer Headscope, with tables that this one does not know."""


class LedgerUnavailableError(StoreError, ConnectionError):
    """The ledger does not answer now; nothing was changed."""


class Database:
    """The database at `url`, with the tables of this version. Threads share it, and processes that fork.

    Raises:
        NewerLedgerError: It was made by a newer Headscope.
        LedgerUnavailableError: It cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._clock = _CLOCK[self._engine.dialect.name]
        self._gate = _Gate()
        _opened.add(self)
        self._migrate()

    @contextlib.contextmanager
    def read(self) -> Iterator[tuple[Connection, float]]:
        """A transaction that changes nothing, and the time on the database's clock."""
        with self._gate.passed(), self._told(), self._engine.connect() as conn:
            yield conn, conn.execute(self._clock).scalar_one()

    @contextlib.contextmanager
    def write(self) -> Iterator[tuple[Connection, float]]:
        """A transaction that is kept if its block ends, and undone if it raises; and the time."""
        with self._gate.passed(), self._told(), self._engine.connect().execution_options(writes=True) as conn:
            with conn.begin():
                if conn.dialect.name == "postgresql":
                    conn.execute(_ONE_WRITER)
                yield conn, conn.execute(self._clock).scalar_one()
                hit("before-ledger-commit")
            hit("after-ledger-commit")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say in words what stops a transaction, where it is not our mistake."""
        try:
            yield
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError) as error:
            cause = error.orig
            code = getattr(cause, "sqlite_errorcode", None) or getattr(cause, "sqlstate", None)
            if code in _FULL:
                raise DiskFullError(f"there is no room left for the ledger {self._engine.url!r}; free some") from error
            raise LedgerUnavailableError(f"the ledger {self._engine.url!r} does not answer: {cause}") from error

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


def _engine(url: str) -> sa.Engine:
    where = make_url(url)
    to_json = partial(json.dumps, allow_nan=False)
    if where.get_backend_name() == "postgresql":
        # A process that is stopped in the middle of a transaction is cut off, so that the others go on.
        options = f"-c lock_timeout={_BUSY_SECONDS}s -c idle_in_transaction_session_timeout={_BUSY_SECONDS // 3}s"
        arguments = {"options": options, "connect_timeout": 5}
        return sa.create_engine(where, connect_args=arguments, pool_pre_ping=True, json_serializer=to_json)
    if where.get_backend_name() != "sqlite" or where.database in (None, "", ":memory:"):
        raise ValueError(f"{where!r} is no ledger; give sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE")
    Path(str(where.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(where, connect_args={"timeout": _BUSY_SECONDS}, json_serializer=to_json)

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

    return engine


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

    @contextlib.contextmanager
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
