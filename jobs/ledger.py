"""Which jobs are there, who does what of them now, and what came of it? The ledger.

A job is cut into units. A worker takes a unit under a lease, which holds for LEASE_SECONDS and is renewed for as
long as the worker lives. Each lease has a fencing number; each lease is one attempt, which is kept for good. Every
method is one transaction: all of it happens, or nothing.
"""

import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.engine import Connection

from jobs.database import Database, plain
from jobs.requests import FIXED
from jobs.tables import HELD, LIVE, WAITING, attempts, catalogue, jobs, results, turns, units, workers
from jobs.work import (
    ENDED,
    CancelledError,
    Job,
    JobNotFoundError,
    Lease,
    Step,
    StudyAskedError,
    TooManyJobsError,
    WorkerSeen,
)
from store.errors import LostLeaseError

LEASE_SECONDS = 30.0
# So many attempts of one unit that failed, or that were lost through no fault of their own, end its job.
MOST_FAILED, MOST_LOST = 3, 30
# For so long every worker that is there must find that it does not fit a job's plan, until that ends the job: one that
# fits may be on its way.
UNFIT_SECONDS = 300.0
# A worker that was heard of within so many seconds is there.
HERE_SECONDS = 60.0
# The unit that frees the space of a cancelled job that was begun; no job has another in a phase so high.
CLEAN = Step(1000, 0, "clean")
# A job's rate is that of its units that ended in this time before its last.
RATE_SECONDS = 300.0
# Nobody needs to know of more units that could be taken.
MOST_COUNTED = 1000

_PAGE = 200  # jobs
_FORGOTTEN = 86_400.0  # seconds after which a worker that says nothing is no longer listed anywhere

_Row = Any  # of the database: its columns are its attributes
# Of a job all but its request, which never changes and may be long.
_SHORT = [column for column in jobs.c if column is not jobs.c.request]

# The unit of the job's phase may be taken, the job may be worked at, and it may be cleaned away after. A study that
# was cancelled is cleaned away before another job writes it, and when nobody works at it any more.
_READY = "units.job = jobs.number AND units.phase = jobs.phase AND units.state = 'waiting' AND units.not_before <= :now"
_MAY_RUN = """jobs.queue = :queue AND jobs.state IN ('queued', 'running') AND NOT EXISTS (
    SELECT 1 FROM jobs AS other WHERE other.cleaning AND other.study = jobs.study)"""
_MAY_CLEAN = """jobs.queue = :queue AND jobs.cleaning AND NOT EXISTS (
    SELECT 1 FROM attempts WHERE attempts.outcome IS NULL AND attempts.job = jobs.number)"""
# What was asked of a study on many images, so that it gives way to what takes a moment, whoever asks.
_FIXED = ", ".join(f"'{kind}'" for kind in FIXED)
_IS_LONG = f"CASE WHEN jobs.kind NOT IN ({_FIXED}) AND jobs.units_total > 1 THEN 1 ELSE 0 END"
# CROSS JOIN: jobs first. SQLite would go through all units that wait, as it cannot know how few jobs are cleaned away.
_COUNT = text(f"""SELECT count(*) FROM (
    SELECT jobs.number FROM jobs CROSS JOIN units WHERE {_MAY_CLEAN} AND {_READY}
    UNION ALL SELECT jobs.number FROM jobs CROSS JOIN units WHERE {_MAY_RUN} AND {_READY} LIMIT {MOST_COUNTED}
) AS ready""")
_NEXT_CLEANED = text(f"""SELECT jobs.number FROM jobs
    WHERE {_MAY_CLEAN} AND EXISTS (SELECT 1 FROM units WHERE {_READY}) ORDER BY jobs.number LIMIT 1""")
_NEXT = text(f"""SELECT jobs.number FROM jobs
    LEFT JOIN (
        SELECT busy.who, count(*) AS units FROM attempts JOIN jobs AS busy ON busy.number = attempts.job
        WHERE attempts.outcome IS NULL AND busy.queue = :queue GROUP BY busy.who
    ) AS held ON held.who = jobs.who
    LEFT JOIN turns ON turns.queue = jobs.queue AND turns.who = jobs.who
    WHERE {_MAY_RUN} AND EXISTS (SELECT 1 FROM units WHERE {_READY})
    ORDER BY {_IS_LONG}, coalesce(held.units, 0), coalesce(turns.fence, 0), jobs.number LIMIT 1""")
_UNIT_OF = (
    select(units.c.phase, units.c.number, units.c.name, units.c.images)
    .where(units.c.job == sa.bindparam("job"), units.c.phase == sa.bindparam("phase"), WAITING)
    .where(units.c.not_before <= sa.bindparam("now"))
    .order_by(units.c.number)
    .limit(1)
)
# How many jobs of its queue come before each that waits, if people take turns job by job.
_PLACES = text(f"""SELECT number, place FROM (
    SELECT number, state,
        row_number() OVER (PARTITION BY queue ORDER BY long, state DESC, own, turn, number) - 1 AS place
    FROM (
        SELECT jobs.number, jobs.queue, jobs.state, coalesce(turns.fence, 0) AS turn, {_IS_LONG} AS long,
            row_number() OVER (
                PARTITION BY jobs.queue, jobs.who ORDER BY {_IS_LONG}, jobs.state DESC, jobs.number
            ) AS own
        FROM jobs LEFT JOIN turns ON turns.queue = jobs.queue AND turns.who = jobs.who
        WHERE jobs.state IN ('queued', 'running')
    ) AS live
) AS ranked WHERE state = 'queued'""")
_UNDER_WAY = (
    select(attempts.c.job, attempts.c.beat, attempts.c.done, attempts.c.total, attempts.c.counted, units.c.name)
    .join(units, sa.and_(*(units.c[name] == attempts.c[name] for name in ("job", "phase", "number"))))
    .where(HELD)
    .order_by(attempts.c.phase, attempts.c.number)
)
_FOLLOWING = sa.case(
    (
        sa.or_(LIVE, jobs.c.cleaning),
        select(units.c.name)
        .where(units.c.job == jobs.c.number, units.c.phase == jobs.c.phase, WAITING)
        .order_by(units.c.number)
        .limit(1)
        .scalar_subquery(),
    )
).label("following")
_JOBS = select(*_SHORT, _FOLLOWING).where(jobs.c.number.in_(sa.bindparam("numbers", expanding=True)))
_HELD_JOB = (
    select(*_SHORT)
    .select_from(jobs.join(attempts, attempts.c.job == jobs.c.number))
    .where(attempts.c.fence == sa.bindparam("fence"), HELD)
)


class Ledger:
    """The ledger at `url`, made or brought up to date when it is opened. Threads share it, and processes that fork.

    Args:
        url: `sqlite:///PATH` for processes of one machine, or `postgresql+psycopg://USER@HOST/DATABASE`.
    Raises:
        NewerLedgerError: It was made by a newer Headscope.
        LedgerUnavailableError: It does not answer, as any method may say.
        DiskFullError: There is no room to write it, as any method may say.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._requests: dict[int, dict[str, Any]] = {}

    def now(self) -> float:
        """Seconds since 1970 on the ledger's clock, which alone decides what has lapsed."""
        with self._database.read() as (_, now):
            return now

    def check_whole(self) -> None:
        """Look through all of it for damage.

        Raises:
            DamagedLedgerError: There is some; where it is needed later, any method may say so.
        """
        self._database.check_whole()

    def copy_to(self, path: Path) -> None:
        """Write a copy into a new file that only this user can read, while others go on using the ledger.

        Raises:
            FileExistsError: There is such a file; it stays as it is.
            ValueError: It is in PostgreSQL, which has its own way.
        """
        self._database.copy_to(path)

    # What people ask

    def submit(
        self,
        kind: str,
        queue: str,
        request: dict[str, Any],
        key: str,
        title: str,
        who: str,
        steps: Sequence[Step],
        *,
        answered_once: bool,
        study: str | None = None,
        most: int | None = None,
    ) -> tuple[Job, bool]:
        """The job that answers a request, and whether it is new.

        Args:
            key: By which equal requests are known; a waiting or running job of that key is the answer.
            who: The person who asks.
            steps: The units that the job begins with.
            answered_once: Whether a job of that key that is done is the answer: what it found is still there.
            study: Name of the study that the job will write.
            most: How many jobs of one person may wait or run; None is any number.
        Raises:
            TooManyJobsError: `who` has as many. An answer that is there already is given all the same.
            StudyAskedError: A waiting or running job of another key will write that study.
        """
        with self._database.write() as (conn, now):
            found = conn.scalar(select(jobs.c.number).where(jobs.c.key == key, LIVE))
            if found is None and answered_once:
                made = select(results.c.job).join(jobs).where(results.c.key == key, jobs.c.state == "done")
                found = conn.scalar(made)
            if found is not None:
                return self._job(conn, found), False
            if most is not None:
                _refuse_too_many(conn, plain(who), most)
            if study is not None:
                _refuse_second_writer(conn, study)
            values = {
                "id": secrets.token_hex(6),
                "kind": kind,
                "queue": queue,
                "key": key,
                "request": request,
                "title": plain(title),
                "who": plain(who),
                "study": study,
                "state": "queued",
                "submitted": now,
                "phase": min(step.phase for step in steps),
                "units_total": len(steps),
                "images_total": sum(step.images for step in steps),
                "facts": {},
            }
            number = conn.execute(insert(jobs).returning(jobs.c.number), values).scalar_one()
            conn.execute(insert(units), [_unit(number, step) for step in steps])
            return self._job(conn, number), True

    def cancel(self, job: str, who: str) -> Job:
        """Cancel a job for good; one that has ended stays as it is. Workers that are at it learn of it.

        Raises:
            JobNotFoundError: There is none of that id.
        """
        with self._database.write() as (conn, now):
            row = _job_row(conn, job)
            if row.state not in ENDED:
                values = {"state": "cancelled", "finished": now, "cause": f"cancelled by {plain(who)}", "note": None}
                if row.started is not None and (row.kind == "study" or _has_parts(row)):
                    conn.execute(insert(units), _unit(row.number, CLEAN))
                    values |= {"cleaning": True, "phase": CLEAN.phase}
                _set(conn, row.number, values)
            return self._job(conn, row.number)

    def job(self, job: str) -> Job:
        """The job with that id.

        Raises:
            JobNotFoundError: There is none.
        """
        with self._database.read() as (conn, _):
            return self._job(conn, _job_row(conn, job).number)

    def jobs(self, limit: int = _PAGE, kinds: Iterable[str] | None = None) -> list[Job]:
        """Jobs: those that run, then those that wait, then those that ended, and of each the newest first."""
        chosen = [] if kinds is None else [jobs.c.kind.in_(list(kinds))]
        with self._database.read() as (conn, _):
            live = select(jobs.c.number).where(LIVE, *chosen).order_by(jobs.c.state.desc(), jobs.c.number.desc())
            numbers = list(conn.scalars(live.limit(limit)))
            if len(numbers) < limit:
                ended = select(jobs.c.number).where(sa.not_(LIVE), *chosen).order_by(jobs.c.number.desc())
                numbers += conn.scalars(ended.limit(limit - len(numbers)))
            return self._jobs(conn, numbers)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state that any is in."""
        with self._database.read() as (conn, _):
            rows = conn.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))
            return {row[0]: row[1] for row in rows}

    def result(self, key: str) -> dict[str, Any] | None:
        """What the last job of that key found; None if none found anything yet."""
        with self._database.read() as (conn, _):
            found: dict[str, Any] | None = conn.scalar(select(results.c.result).where(results.c.key == key))
            return found

    def numbers_of(self, kind: str) -> list[str]:
        """Keys of results of that kind of job that hold the numbers themselves, as older versions left them."""
        old = sa.cast(results.c.result, sa.Text).like('%"top_after"%')
        with self._database.read() as (conn, _):
            return list(conn.scalars(select(results.c.key).join(jobs).where(jobs.c.kind == kind, old)))

    def forget_result(self, key: str) -> None:
        """Keep the result of that key no longer. Harmless twice."""
        with self._database.write() as (conn, _):
            conn.execute(delete(results).where(results.c.key == key))

    # What workers do

    def take(self, queue: str, worker: str, bell: str) -> Lease | None:
        """A lease on the unit of a queue that is next; None if none is ready.

        The cleaning of a cancelled job comes before all, what people asked for on many images after all others. Then
        people take turns: first comes who has the fewest units under way, then who has waited longest for a turn; of
        one person the oldest job.

        Args:
            worker: Name of the process that will do it.
            bell: By which `crashed` will know what this process was at.
        """
        with self._database.write() as (conn, now):
            when = {"queue": queue, "now": now}
            number = conn.scalar(_NEXT_CLEANED, when) or conn.scalar(_NEXT, when)
            if number is None:
                return None
            job = conn.execute(select(jobs).where(jobs.c.number == number)).one()
            step = Step(*conn.execute(_UNIT_OF, {"job": number, "phase": job.phase, "now": now}).one())
            attempt = {
                "job": number,
                "phase": step.phase,
                "number": step.number,
                "worker": worker,
                "bell": bell,
                "taken": now,
                "beat": now,
                "lapses": now + LEASE_SECONDS,
            }
            fence = conn.execute(insert(attempts).returning(attempts.c.fence), attempt).scalar_one()
            conn.execute(update(units).where(*_at(number, step)).values(state="running", started=now))
            if job.state == "queued":
                _set(conn, number, {"state": "running", "started": now})
            _put(conn, turns, {"queue": queue, "who": job.who}, {"fence": fence})
            return Lease(fence, job.id, job.kind, job.key, job.request, step, job.facts)

    def check(self, lease: Lease) -> None:
        """Nothing, if the lease is still held and its job still wanted.

        Raises:
            LostLeaseError: The unit is no longer this lease's.
            CancelledError: The job was cancelled. The lease is to be given back, by any method that ends it.
        """
        with self._database.read() as (conn, _):
            _held(conn, lease)

    def renew(self, lease: Lease, done: int = 0, total: int = 0, counted: str = "") -> None:
        """Hold the lease for another LEASE_SECONDS, and note how far its unit is.

        Raises:
            LostLeaseError, CancelledError: As `check`.
        """
        with self._database.write() as (conn, now):
            job = _held(conn, lease)
            progress = {"done": done, "total": total, "counted": counted} if total else {}
            mine = update(attempts).where(attempts.c.fence == lease.fence)
            conn.execute(mine.values(beat=now, lapses=now + LEASE_SECONDS, **progress))
            if done and job.note:
                _set(conn, job.number, {"note": None})

    def hold(self, lease: Lease) -> None:
        """The check of the fencing number just before something is placed; the lease then holds for LEASE_SECONDS.

        Raises:
            LostLeaseError, CancelledError: As `check`; nothing may be placed.
        """
        self.renew(lease)

    def plan(self, lease: Lease, steps: Sequence[Step], facts: dict[str, Any]) -> None:
        """Have the units of later phases be these, in place of any that an earlier plan gave; and add facts.

        Raises:
            ValueError: A step's phase is not later than the lease's own.
            LostLeaseError, CancelledError: As `check`.
        """
        early = [step for step in steps if not lease.step.phase < step.phase < CLEAN.phase]
        if early:
            raise ValueError(
                f"{early[0].name!r} is of phase {early[0].phase}; what {lease.step.name!r} plans comes in a phase of "
                f"{lease.step.phase + 1} to {CLEAN.phase - 1}"
            )
        with self._database.write() as (conn, _):
            job = _held(conn, lease)
            conn.execute(delete(units).where(units.c.job == job.number, units.c.phase > lease.step.phase))
            if steps:
                conn.execute(insert(units), [_unit(job.number, step) for step in steps])
            counted = select(func.count(), func.sum(units.c.images)).where(units.c.job == job.number)
            total, images = conn.execute(counted).one()
            _set(conn, job.number, {"units_total": total, "images_total": images, "facts": job.facts | facts})

    def note(self, lease: Lease, facts: dict[str, Any]) -> None:
        """Add facts to the job's.

        Raises:
            LostLeaseError, CancelledError: As `check`.
        """
        with self._database.write() as (conn, _):
            job = _held(conn, lease)
            _set(conn, job.number, {"facts": job.facts | facts})

    def unit_facts(self, job: str, phase: int) -> list[dict[str, Any]]:
        """The facts that the units of a phase left when they were done, by their number."""
        mine = select(units.c.facts).join(jobs).where(jobs.c.id == job, units.c.phase == phase, units.c.state == "done")
        with self._database.read() as (conn, _):
            return [facts or {} for facts in conn.scalars(mine.order_by(units.c.number))]

    def finish(self, lease: Lease, facts: dict[str, Any] | None = None, result: dict[str, Any] | None = None) -> None:
        """The unit is done; with the last one, so is the job. But one that writes a study has failed without a result.

        Args:
            facts: Of the unit, for the units of later phases.
            result: Of the job, kept under its key.
        Raises:
            LostLeaseError: As `check`.
            CancelledError: The job was cancelled, and the unit is not done. The lease has ended.
        """
        with self._database.write() as (conn, now):
            job = _held(conn, lease, even_cancelled=True)
            cancelled = _is_cancelled(job, lease.step)
            if cancelled:
                _end(conn, lease.fence, now, "cancelled")
            else:
                _end(conn, lease.fence, now, "done")
                mine = update(units).where(*_at(job.number, lease.step))
                conn.execute(mine.values(state="done", finished=now, facts=facts))
                if result is not None:
                    _put(conn, results, {"key": job.key}, {"job": job.number, "result": result})
                _set(conn, job.number, _after(conn, job, lease.step, now))
        if cancelled:
            raise CancelledError(f"job {job.id} was {job.cause}")

    def fail(self, lease: Lease, cause: str, log: str = "", *, final: bool = False) -> None:
        """The unit failed, by its own fault. It is tried MOST_FAILED times, or never again if that is `final`.

        Raises:
            LostLeaseError: As `check`; then it does not count.
        """
        with self._database.write() as (conn, now):
            _held(conn, lease, even_cancelled=True)
            _give_back(conn, lease.fence, now, "failed", cause, log, final=final)

    def decline(self, lease: Lease, cause: str, seconds: float, *, unfit: bool = False) -> None:
        """The unit cannot be done here, or not now; it may be taken again in `seconds`. This never counts by itself.

        Args:
            unfit: Whether this worker does not fit the job's plan. The job fails when all workers of its queue that are
                there have said so for UNFIT_SECONDS.
        Raises:
            LostLeaseError: As `check`.
        """
        with self._database.write() as (conn, now):
            _held(conn, lease, even_cancelled=True)
            _give_back(conn, lease.fence, now, "unfit" if unfit else "declined", cause, seconds=seconds)

    def lose(self, fence: int, cause: str) -> None:
        """Whoever holds the lease of that number will not end it; nothing, if it has ended."""
        with self._database.write() as (conn, now):
            _give_back(conn, fence, now, "lost", cause)

    def crashed(self, bell: str, cause: str, *, counts: bool) -> None:
        """The process that answered `bell` died: what it was at has failed if that `counts`, and is lost otherwise."""
        with self._database.write() as (conn, now):
            for fence in conn.scalars(select(attempts.c.fence).where(HELD, attempts.c.bell == bell)).all():
                _give_back(conn, fence, now, "failed" if counts else "lost", cause)

    def reap(self) -> int:
        """Lose the leases that have lapsed, and say how many those were."""
        with self._database.read() as (conn, now):
            if not _lapsed(conn, now):
                return 0
        with self._database.write() as (conn, now):
            lapsed = _lapsed(conn, now)
            for fence in lapsed:
                _give_back(conn, fence, now, "lost", f"no heartbeat for {LEASE_SECONDS:.0f} s")
            return len(lapsed)

    def leases(self) -> list[tuple[int, str]]:
        """Every live lease: its fencing number, and its worker."""
        with self._database.read() as (conn, _):
            rows = conn.execute(select(attempts.c.fence, attempts.c.worker).where(HELD).order_by(attempts.c.fence))
            return [(row.fence, row.worker) for row in rows]

    def ready(self, queue: str) -> int:
        """How many units of a queue could be taken now; MOST_COUNTED stands for more, too."""
        with self._database.read() as (conn, now):
            return int(conn.execute(_COUNT, {"queue": queue, "now": now}).scalar_one())

    # Who is there, and what they know

    def here(self, name: str, queue: str, device: str) -> None:
        """A worker says that it is there."""
        with self._database.write() as (conn, now):
            conn.execute(delete(workers).where(workers.c.seen < now - _FORGOTTEN))
            _put(conn, workers, {"name": name}, {"queue": queue, "device": device, "seen": now})

    def workers(self, within: float = HERE_SECONDS) -> list[WorkerSeen]:
        """The workers that said in the last seconds that they are there."""
        with self._database.read() as (conn, now):
            seen = select(workers).where(workers.c.seen >= now - within).order_by(workers.c.name)
            return [WorkerSeen(row.name, row.queue, row.device, row.seen) for row in conn.execute(seen)]

    def keep(self, name: str, value: Any) -> None:
        """Keep a piece of JSON under a name: what workers know and the page asks for."""
        with self._database.write() as (conn, _):
            _put(conn, catalogue, {"name": name}, {"value": value})

    def kept(self, name: str) -> Any:
        """What is kept under a name; None if nothing is."""
        with self._database.read() as (conn, _):
            return conn.scalar(select(catalogue.c.value).where(catalogue.c.name == name))

    # Jobs as people see them

    def _job(self, conn: Connection, number: int) -> Job:
        (job,) = self._jobs(conn, [number])
        return job

    def _jobs(self, conn: Connection, numbers: Sequence[int]) -> list[Job]:
        """The jobs with these numbers, in their order, by a few queries however many they are."""
        rows = {row.number: row for row in conn.execute(_JOBS, {"numbers": numbers})}
        requests = self._requests_of(conn, numbers)
        waiting = any(row.state == "queued" for row in rows.values())
        places = {row.number: row.place for row in conn.execute(_PLACES)} if waiting else {}
        held = defaultdict(list)
        for attempt in conn.execute(_UNDER_WAY):
            held[attempt.job].append(attempt)
        return [_as_job(rows[number], requests[number], held[number], places.get(number)) for number in numbers]

    def _requests_of(self, conn: Connection, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The requests of jobs; those that were asked for lately are not read again."""
        known = self._requests
        found = {number: known[number] for number in numbers if number in known}
        missing = [number for number in numbers if number not in known]
        if missing:
            rows = conn.execute(select(jobs.c.number, jobs.c.request).where(jobs.c.number.in_(missing)))
            found |= {row.number: row.request for row in rows}
            self._requests = found if len(known) > 2 * _PAGE else known | found
        return found


def _as_job(row: _Row, request: dict[str, Any], held: Sequence[_Row], place: int | None) -> Job:
    """A job of its row, its request, the attempts under way in order, and its place in the queue."""
    first = held[0] if held else None
    left = row.images_total - row.images_done
    return Job(
        id=row.id,
        kind=row.kind,
        queue=row.queue,
        key=row.key,
        request=request,
        title=row.title,
        who=row.who,
        state=row.state,
        submitted=row.submitted,
        started=row.started,
        finished=row.finished,
        place=place,
        units_done=row.units_done,
        units_total=row.units_total,
        images_done=row.images_done,
        images_total=row.images_total,
        stage=first.name if first else row.following,
        stage_done=first.done if first else 0,
        stage_total=first.total if first else 0,
        counted=first.counted if first else "",
        workers=len(held),
        images_per_second=row.rate,
        eta=left / row.rate if left and row.rate and row.state == "running" else None,
        beat=max((attempt.beat for attempt in held), default=row.beat),
        cause=row.cause,
        log=row.log,
        note=row.note,
        facts=row.facts,
    )


def _at(job: int, step: Step) -> list[sa.ColumnElement[bool]]:
    return [units.c.job == job, units.c.phase == step.phase, units.c.number == step.number]


def _unit(job: int, step: Step) -> dict[str, Any]:
    return {"job": job, "phase": step.phase, "number": step.number, "name": step.name, "images": step.images}


def _set(conn: Connection, job: int, values: dict[str, Any]) -> None:
    conn.execute(update(jobs).where(jobs.c.number == job).values(values))


def _put(conn: Connection, table: sa.Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    """The row of that key has these values, whether it was there before or not."""
    there = update(table).where(*(table.c[name] == value for name, value in key.items()))
    if conn.execute(there.values(values)).rowcount == 0:
        conn.execute(insert(table), key | values)


def _job_row(conn: Connection, job: str) -> _Row:
    row = conn.execute(select(*_SHORT).where(jobs.c.id == job)).first()
    if row is None:
        raise JobNotFoundError(f"the ledger has no job {job!r}; `headscope jobs` lists those that it has")
    return row


def _refuse_too_many(conn: Connection, who: str, most: int) -> None:
    live = conn.scalar(select(func.count()).select_from(jobs).where(jobs.c.who == who, LIVE)) or 0
    if live >= most:
        raise TooManyJobsError(
            f"{live:,} jobs of {who} wait or run, and one person may have {most:,} (HEADSCOPE_JOBS_PER_USER); "
            "cancel some, or ask again when one has ended"
        )


def _refuse_second_writer(conn: Connection, study: str) -> None:
    other = conn.execute(select(jobs.c.id, jobs.c.who).where(jobs.c.study == study, LIVE)).first()
    if other is not None:
        raise StudyAskedError(
            f"job {other.id} of {other.who} will write the study {study!r} from other parameters; "
            "give this study another name, or cancel that job",
            other.id,
        )


def _held(conn: Connection, lease: Lease, *, even_cancelled: bool = False) -> _Row:
    """The job of a lease that is live."""
    job = conn.execute(_HELD_JOB, {"fence": lease.fence}).first()
    if job is None:
        raise LostLeaseError(
            f"lease {lease.fence} on {lease.step.name!r} of job {lease.job} has ended; "
            "what was made under it must not be written"
        )
    if _is_cancelled(job, lease.step) and not even_cancelled:
        raise CancelledError(f"job {job.id} was {job.cause}")
    return job


def _has_parts(job: _Row) -> bool:
    """Whether the units of a job keep parts of its result in the store until the last of them."""
    return job.kind not in FIXED and job.units_total > 1


def _is_cancelled(job: _Row, step: Step) -> bool:
    return job.state == "cancelled" and step.name != CLEAN.name


def _lapsed(conn: Connection, now: float) -> Sequence[int]:
    return conn.scalars(select(attempts.c.fence).where(HELD, attempts.c.lapses < now)).all()


def _end(conn: Connection, fence: int, now: float, outcome: str, cause: str | None = None) -> None:
    mine = update(attempts).where(attempts.c.fence == fence)
    conn.execute(mine.values(ended=now, outcome=outcome, cause=cause))


def _after(conn: Connection, job: _Row, step: Step, now: float) -> dict[str, Any]:
    """What changes in a job when a unit of it was done."""
    if step.name == CLEAN.name:
        return {"cleaning": False, "beat": now}
    values: dict[str, Any] = {"units_done": job.units_done + 1, "beat": now, "note": None}
    if step.images:
        values |= {"images_done": job.images_done + step.images, "rate": _rate(conn, job.number, now)}
    if not conn.scalar(select(func.count()).where(HELD, attempts.c.job == job.number)):
        phase = conn.scalar(select(func.min(units.c.phase)).where(units.c.job == job.number, WAITING))
        values |= {"phase": phase} if phase is not None else {"finished": now} | _end_of(conn, job)
    return values


def _end_of(conn: Connection, job: _Row) -> dict[str, Any]:
    """What a job has become when all of its units are done."""
    if job.study is None or conn.scalar(select(results.c.job).where(results.c.key == job.key)) == job.number:
        return {"state": "done"}
    cause = (
        f"every step is done, and yet the study {job.study!r} is not published; "
        "ask for the same study again, which goes on with what is there"
    )
    return {"state": "failed", "cause": cause}


def _rate(conn: Connection, job: int, now: float) -> float | None:
    """Images a second, by the wall clock from the first start to the last end of the units that ended lately."""
    seconds = func.max(units.c.finished) - func.min(units.c.started)
    lately = (units.c.job == job, units.c.finished > now - RATE_SECONDS, units.c.images > 0)
    images, took = conn.execute(select(func.sum(units.c.images), seconds).where(*lately)).one()
    return images / took if took > 0 else None


def _give_back(
    conn: Connection,
    fence: int,
    now: float,
    outcome: str,
    cause: str,
    log: str = "",
    *,
    final: bool = False,
    seconds: float = 0.0,
) -> None:
    """End a lease whose unit is not done; nothing, if it has ended."""
    attempt = conn.execute(select(attempts).where(attempts.c.fence == fence, HELD)).first()
    if attempt is None:
        return
    cause, at = plain(cause), Step(attempt.phase, attempt.number, "")
    unit = conn.execute(select(units).where(*_at(attempt.job, at))).one()
    step = Step(attempt.phase, attempt.number, unit.name)
    job = conn.execute(select(*_SHORT).where(jobs.c.number == attempt.job)).one()
    if _is_cancelled(job, step):
        outcome = "cancelled"
    failed, lost = unit.failed + (outcome == "failed"), unit.lost + (outcome == "lost")
    _end(conn, fence, now, outcome, cause)
    if outcome == "unfit" and _nobody_fits(conn, job, attempt.worker, now):
        outcome, final = "failed", True
        cause = f"{cause}. No worker fits the plan of this job any more; ask for the same again, which makes a new plan"
    over = (outcome == "failed" and (final or failed >= MOST_FAILED)) or lost >= MOST_LOST
    state = "failed" if over else "waiting"
    mine = update(units).where(*_at(attempt.job, step))
    conn.execute(mine.values(state=state, not_before=now + seconds, failed=failed, lost=lost))
    values: dict[str, Any] = {"beat": attempt.beat if outcome == "lost" else now}
    if over and job.cleaning:
        values |= {"cleaning": False, "note": f"what it had written is still there: {cause}"}
    elif over:
        how = f"was lost {lost} times" if outcome == "lost" else f"failed {failed} times"
        values |= {"state": "failed", "finished": now, "note": None, "log": plain(log) or None}
        values["cause"] = cause if final else f"{unit.name} {how}: {cause}"
        others = update(attempts).where(HELD, attempts.c.job == job.number)
        conn.execute(others.values(ended=now, outcome="cancelled", cause=f"{unit.name} failed"))
    elif outcome != "cancelled":
        again = {
            "failed": f"{unit.name} failed, once more: ",
            "lost": f"{unit.name}, once more: ",
            "unfit": "waits for a worker that fits its plan: ",
        }
        values["note"] = again.get(outcome, "") + cause
    _set(conn, job.number, values)


def _nobody_fits(conn: Connection, job: _Row, worker: str, now: float) -> bool:
    """Whether no worker fits a job: `worker` found so for UNFIT_SECONDS in which no unit was done, and the others too.

    The others are those of its queue that are there. Each is known by the beginning of its attempts' `worker`, and may
    fit until its last attempt at this job has ended as unfit. Whoever is at the job fits.
    """
    seen = select(workers.c.name).where(workers.c.queue == job.queue, workers.c.seen >= now - HERE_SECONDS)
    last: dict[str, str | None] = dict.fromkeys((*conn.scalars(seen), worker))
    since = now
    tried = select(attempts.c.worker, attempts.c.outcome, attempts.c.ended).where(attempts.c.job == job.number)
    for other, outcome, ended in conn.execute(tried.order_by(attempts.c.fence)):
        last |= {name: outcome for name in last if f"{other} ".startswith(f"{name} ")}
        if outcome is None:
            return False
        if outcome == "done":
            since = now
        elif outcome == "unfit" and other == worker:
            since = min(since, ended)
    return now - since >= UNFIT_SECONDS and set(last.values()) == {"unfit"}
