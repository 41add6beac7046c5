"""New ledgers for tests, in SQLite and in PostgreSQL, which is the tests' own: started from the system's programs, in a
folder that goes away with it.
"""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from jobs.ledger import Ledger


def _program(name: str) -> str:
    found = shutil.which(name) or next(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)
    return found or pytest.skip(f"no PostgreSQL here: there is no {name} on PATH or in /usr/lib/postgresql")


def _user() -> str | None:
    """Who runs it: PostgreSQL refuses to be root's."""
    if os.getuid() != 0:
        return None
    return next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Folder of the socket of a server that only this machine's users reach, and only by that folder."""
    initdb, postgres, user = _program("initdb"), _program("postgres"), _user()
    folder = Path(tempfile.mkdtemp(prefix="headscope-pg-"))  # short, as the path of a socket must be
    try:
        if user is not None:
            shutil.chown(folder, user)
        cluster = str(folder / "cluster")
        making = [initdb, "-D", cluster, "-U", "tests", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(making, user=user, cwd=folder, check=True, capture_output=True, timeout=60)
        running = [postgres, "-D", cluster, "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen(
            running, user=user, cwd=folder, stderr=subprocess.DEVNULL, preexec_fn=_end_with_parent
        )
        try:
            _wait(folder, server)
            yield str(folder)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(folder: Path, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host=str(folder), user="tests", dbname="postgres").close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def postgresql(postgres_server: str) -> Iterator[str]:
    """URL of an empty database, for one test."""
    yield f"postgresql+psycopg://tests@/postgres?host={postgres_server}"
    with psycopg.connect(host=postgres_server, user="tests", dbname="postgres", autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tests' "
                      "AND pid <> pg_backend_pid()")  # fmt: skip
        admin.execute("DROP SCHEMA public CASCADE")
        admin.execute("CREATE SCHEMA public")


@pytest.fixture(scope="session")
def new_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new ledger's file, which tests copy rather than make."""
    made = tmp_path_factory.mktemp("ledger") / "new.db"
    Ledger(f"sqlite:///{made}")._database._engine.dispose()
    return made


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path, new_ledger: Path) -> str:
    """URL of a new ledger, in each kind of database."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return f"sqlite:///{shutil.copy(new_ledger, tmp_path)}"
