"""What the ledger promises when many processes use it, when they die at any moment, and when it is older or newer."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from jobs import tables
from jobs.database import LedgerUnavailableError, NewerLedgerError
from jobs.ledger import Ledger
from jobs.work import Job, Lease, Step
from store import failpoints
from store.errors import DiskFullError

forked = multiprocessing.get_context("fork")
ROOT = Path(__file__).parents[1]
PLAN = Step(0, 0, "plan")
LATER = [Step(1, 0, "images", 16), Step(1, 1, "images", 16)]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql")
    return f"sqlite:///{tmp_path}/folder/ledger.db"


def submit(ledger: Ledger, key: str = "key", *steps: Step, kind: str = "prune") -> Job:
    return ledger.submit(kind, "bulk", {}, key, key, f"who of {key}", steps or [PLAN], answered_once=False)[0]


def take(ledger: Ledger) -> Lease:
    lease = ledger.take("bulk", "worker", "bell")
    assert lease is not None
    return lease


def in_child(body: Callable[[], object]) -> int:
    """Exit code of a child that did `body`: 0, 1 if it raised, or less than 0 for the signal that killed it."""
    child = forked.Process(target=body)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def rows(ledger: Ledger) -> dict[str, list[tuple]]:
    """Everything the ledger holds."""
    with ledger._database.read() as (conn, _):
        return {table.name: conn.execute(select(table).order_by(*table.primary_key)).all()
                for table in tables.metadata.sorted_tables}  # fmt: skip


# Many at once


def test_processes_that_open_a_new_ledger_at_once_make_it_once(url):
    ready = forked.Barrier(6)

    def opens() -> None:
        ready.wait(60)
        submit(Ledger(url), str(os.getpid()))

    children = [forked.Process(target=opens) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 6
    assert Ledger(url).counts() == {"queued": 6}


def test_processes_that_take_at_once_take_every_unit_once(url):
    ledger = Ledger(url)
    for key in "abcd":
        submit(ledger, key, *(Step(0, number, "unit") for number in range(20)), Step(1, 0, "sum up"))

    def work() -> None:
        while ledger.ready("bulk") or ledger.leases():
            lease = ledger.take("bulk", str(os.getpid()), "bell")
            if lease is not None:
                ledger.finish(lease)

    children = [forked.Process(target=work) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 4
    assert ledger.counts() == {"done": 4}
    with ledger._database.read() as (conn, _):
        taken = conn.execute(select(tables.attempts.c.job, tables.attempts.c.phase, tables.attempts.c.number)).all()
    assert len(taken) == 84 and set(Counter(taken).values()) == {1}


def test_equal_requests_of_many_processes_are_one_job(url):
    ledger = Ledger(url)
    said = forked.Queue()

    def asks() -> None:
        for _ in range(5):
            job, new = ledger.submit("prune", "bulk", {}, "key", "title", "ann", [PLAN], answered_once=True)
            said.put((job.id, new))

    children = [forked.Process(target=asks) for _ in range(4)]
    for child in children:
        child.start()
    answers = [said.get(timeout=60) for _ in range(20)]
    for child in children:
        child.join(60)
    assert len({job for job, _ in answers}) == 1 and sum(new for _, new in answers) == 1


def test_a_process_forks_while_its_threads_use_the_ledger(url):
    ledger = Ledger(url)
    over = threading.Event()

    def uses() -> None:
        while not over.is_set():
            ledger.here("parent", "bulk", "cpu")
            ledger.counts()

    threads = [threading.Thread(target=uses) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_child(lambda number=number: submit(ledger, f"child {number}")) for number in range(10)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 10
    assert ledger.counts() == {"queued": 10}


def test_no_clock_of_a_process_is_asked(url, monkeypatch):
    ledger = Ledger(url)
    submit(ledger)
    lease = take(ledger)
    before = ledger.now()
    code = f"""
import datetime, time
true = time.time
time.time = lambda: true() + 3600
class Ahead(datetime.datetime):
    @classmethod
    def now(cls, tz=None): return super().now(tz) + datetime.timedelta(hours=1)
    utcnow = today = now
datetime.datetime = Ahead
from jobs.ledger import Ledger
ledger = Ledger({url!r})
assert ledger.reap() == 0 and [fence for fence, _ in ledger.leases()] == [{lease.fence}]
assert ledger.now() - {before!r} < 600
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ledger.finish(lease)


# Dying


def begun(ledger: Ledger) -> Lease:
    submit(ledger, "key", PLAN, *LATER, kind="study")
    return take(ledger)


WRITES: dict[str, Callable[[Ledger, Lease], object]] = {
    "submit": lambda ledger, lease: submit(ledger, "other", PLAN, *LATER),
    "take": lambda ledger, lease: take(ledger),
    "renew": lambda ledger, lease: ledger.renew(lease, 1, 2, "x"),
    "plan": lambda ledger, lease: ledger.plan(lease, [*LATER, Step(2, 0, "gather")], {"a": 1}),
    "finish": lambda ledger, lease: ledger.finish(lease, {"a": 1}, {"a": 1}),
    "fail": lambda ledger, lease: ledger.fail(lease, "no", "log", final=True),
    "decline": lambda ledger, lease: ledger.decline(lease, "no", 5),
    "lose": lambda ledger, lease: ledger.lose(lease.fence, "gone"),
    "cancel": lambda ledger, lease: ledger.cancel(lease.job, "ann"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_process_that_is_killed_leaves_whole_transactions(url, write, monkeypatch):
    ledger = Ledger(url)
    lease = begun(ledger)
    if write == "take":
        ledger.decline(lease, "not now", 0)
    before = rows(ledger)
    monkeypatch.setenv(failpoints.VARIABLE, "before-ledger-commit:kill")
    assert in_child(lambda: WRITES[write](ledger, lease)) == -signal.SIGKILL
    monkeypatch.delenv(failpoints.VARIABLE)
    assert rows(ledger) == before
    monkeypatch.setenv(failpoints.VARIABLE, "after-ledger-commit:kill")
    assert in_child(lambda: WRITES[write](ledger, lease)) == -signal.SIGKILL
    monkeypatch.delenv(failpoints.VARIABLE)
    after, known = rows(ledger), Ledger(url)
    assert after != before
    assert rows(known) == after
    submit(known, "more")
    assert known.jobs()


def test_a_job_whose_workers_are_killed_at_one_write_after_another_comes_to_its_end(url, monkeypatch):
    ledger = Ledger(url)
    job = submit(ledger, "key", PLAN)

    def works() -> None:
        while lease := ledger.take("bulk", "worker", "bell"):
            if lease.step == PLAN:
                ledger.plan(lease, LATER, {})
            ledger.finish(lease)

    for nth in (1, 2, 3, 1, 2):
        monkeypatch.setenv(failpoints.VARIABLE, f"before-ledger-commit:{nth}:kill")
        assert in_child(works) == -signal.SIGKILL
        monkeypatch.delenv(failpoints.VARIABLE)
        for fence, _ in ledger.leases():
            ledger.lose(fence, "killed")
    assert ledger.job(job.id).state == "running"
    assert in_child(works) == 0
    done = ledger.job(job.id)
    assert (done.state, done.units_done, done.units_total, done.images_done) == ("done", 3, 3, 32)


# Opening


def test_an_empty_database_gets_every_table_and_they_are_as_the_code_says(url):
    ledger = Ledger(url)
    with ledger._database.read() as (conn, _):
        assert (
            compare_metadata(MigrationContext.configure(conn, opts={"compare_server_default": True}), tables.metadata)
            == []
        )
        made = {index["name"] for table in tables.metadata.tables for index in sa.inspect(conn).get_indexes(table)}
        partial = _partial(conn)
    declared = {index.name: index for table in tables.metadata.sorted_tables for index in table.indexes}
    assert set(declared) <= made
    assert partial == {
        "one_live_job_a_key": "live",
        "one_live_job_a_study": "live",
        "live_jobs": "live",
        "cleaning_jobs": "cleaning",
        "waiting_units": "waiting",
        "one_lease_a_unit": "held",
    }


def _partial(conn: sa.Connection) -> dict[str, str]:
    """The indexes of some rows, and of which."""
    if conn.dialect.name == "sqlite":
        found = conn.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"))
    else:
        found = conn.execute(text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"))
    of = {"'queued'": "live", "cleaning": "cleaning", "'waiting'": "waiting", "outcome IS NULL": "held"}
    where = {name: sql.partition(" WHERE ")[2] for name, sql in found}
    return {name: next(word for sign, word in of.items() if sign in some) for name, some in where.items() if some}


def test_the_version_is_that_of_the_last_migration():
    config = Config()
    config.set_main_option("script_location", str(ROOT / "jobs" / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == tables.VERSION


def test_a_process_that_is_killed_while_it_makes_the_tables_leaves_nothing_half_made(url, monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "before-ledger-commit:kill")
    assert in_child(lambda: Ledger(url)) == -signal.SIGKILL
    monkeypatch.setenv(failpoints.VARIABLE, "after-ledger-commit:kill")
    assert in_child(lambda: Ledger(url)) == -signal.SIGKILL
    monkeypatch.delenv(failpoints.VARIABLE)
    submit(Ledger(url))


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(url):
    ledger = Ledger(url)
    submit(ledger)
    with ledger._database.write() as (conn, _):
        conn.execute(text("UPDATE alembic_version SET version_num = '9000'"))
    before = rows(ledger)
    with pytest.raises(
        NewerLedgerError,
        match=rf"version 9000, of a newer Headscope.*up to version {tables.VERSION}\..*HEADSCOPE_LEDGER",
    ):
        Ledger(url)
    assert rows(ledger) == before


def test_a_ledger_that_is_not_there_is_said_not_to_answer(tmp_path):
    with pytest.raises(LedgerUnavailableError, match=r"postgresql.*does not answer") as refused:
        Ledger(f"postgresql+psycopg://ann:secret@/ledger?host={tmp_path}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/ledger"])
def test_what_is_no_ledger_is_refused(url):
    with pytest.raises(ValueError, match="sqlite:///PATH or postgresql"):
        Ledger(url)


def test_a_server_that_comes_back_is_used_again(postgresql):
    ledger = Ledger(postgresql)
    submit(ledger)
    with ledger._database.read() as (conn, _):
        others = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'tests'"
        )
    with sa.create_engine(postgresql).connect() as conn:
        conn.execute(text(others))
    assert ledger.counts() == {"queued": 1}


def test_a_full_disk_changes_nothing_and_is_said(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    submit(ledger)

    @sa.event.listens_for(ledger._database._engine, "begin")
    def no_room(conn: sa.Connection) -> None:
        conn.exec_driver_sql("PRAGMA max_page_count = 1")  # SQLite takes the present size instead

    before = rows(ledger)
    with pytest.raises(DiskFullError, match="no room left for the ledger"):
        submit(ledger, "other", *(Step(0, number, "a unit " * 100) for number in range(200)))
    assert rows(ledger) == before
