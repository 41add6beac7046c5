"""What does the ledger keep? The tables of jobs, units, attempts and users, as SQLite and PostgreSQL know them.

Times are seconds since 1970 on the ledger's own clock. A change here needs a migration in `migrations/versions`,
and its name in VERSION.
"""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    literal_column,
    text,
)

# The migration that these tables are the outcome of.
VERSION = "2"

metadata = MetaData()

# Written out, as an index of some rows serves only a query that says the same.
_QUEUED: ColumnElement[str] = literal_column("'queued'")
_RUNNING: ColumnElement[str] = literal_column("'running'")
_WAITING: ColumnElement[str] = literal_column("'waiting'")

jobs = Table(
    "jobs",
    metadata,
    Column("number", Integer, primary_key=True),  # in the order of asking
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("request", JSON, nullable=False),
    Column("title", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("study", Text),  # that the job will write
    Column("state", Text, nullable=False),
    Column("submitted", Double, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("phase", Integer, nullable=False),  # the lowest with a unit that is not done: its units may be taken
    Column("units_done", Integer, nullable=False, default=0),
    Column("units_total", Integer, nullable=False),
    Column("images_done", Integer, nullable=False, default=0),
    Column("images_total", Integer, nullable=False),
    Column("rate", Double),  # images a second
    Column("beat", Double),
    Column("cleaning", Boolean, nullable=False, default=False),  # cancelled, and its files are still to be freed
    Column("cause", Text),
    Column("log", Text),
    Column("note", Text),
    Column("facts", JSON, nullable=False),
    sqlite_autoincrement=True,
)
LIVE = jobs.c.state.in_([_QUEUED, _RUNNING])
# However many ask at once, one job answers a request, and one job writes a study.
for _name, _column in (("one_live_job_a_key", jobs.c.key), ("one_live_job_a_study", jobs.c.study)):
    Index(_name, _column, unique=True, sqlite_where=LIVE, postgresql_where=LIVE)
Index("live_jobs", jobs.c.queue, jobs.c.number, sqlite_where=LIVE, postgresql_where=LIVE)
Index("cleaning_jobs", jobs.c.study, sqlite_where=text("cleaning"), postgresql_where=text("cleaning"))
Index("jobs_by_kind", jobs.c.kind, jobs.c.number)
Index("jobs_by_state", jobs.c.state)

units = Table(
    "units",
    metadata,
    Column("job", ForeignKey("jobs.number"), primary_key=True),
    Column("phase", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("images", Integer, nullable=False),
    Column("state", Text, nullable=False, default="waiting"),  # waiting, running, done or failed
    Column("not_before", Double, nullable=False, default=0.0),
    Column("failed", Integer, nullable=False, default=0),  # attempts that ended so
    Column("lost", Integer, nullable=False, default=0),
    Column("started", Double),
    Column("finished", Double),
    Column("facts", JSON),
)
WAITING = units.c.state == _WAITING
Index(
    "waiting_units",
    units.c.job,
    units.c.phase,
    units.c.number,
    units.c.not_before,
    sqlite_where=WAITING,
    postgresql_where=WAITING,
)
Index("units_by_end", units.c.job, units.c.finished, units.c.started, units.c.images)

attempts = Table(
    "attempts",
    metadata,
    Column("fence", Integer, primary_key=True),
    Column("job", Integer, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("worker", Text, nullable=False),
    Column("bell", Text, nullable=False),
    Column("taken", Double, nullable=False),
    Column("beat", Double, nullable=False),
    Column("lapses", Double, nullable=False),
    Column("done", Integer, nullable=False, default=0),
    Column("total", Integer, nullable=False, default=0),
    Column("counted", Text, nullable=False, default=""),
    Column("ended", Double),
    Column("outcome", Text),  # done, failed, lost, cancelled, declined or unfit; NULL while the lease is live
    Column("cause", Text),
    ForeignKeyConstraint(["job", "phase", "number"], ["units.job", "units.phase", "units.number"]),
    sqlite_autoincrement=True,  # a fencing number never comes again
)
HELD = attempts.c.outcome.is_(None)
Index(
    "one_lease_a_unit",
    attempts.c.job,
    attempts.c.phase,
    attempts.c.number,
    unique=True,
    sqlite_where=HELD,
    postgresql_where=HELD,
)

# Whose turn was when: the fencing number of each person's last lease in a queue.
turns = Table(
    "turns",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("who", Text, primary_key=True),
    Column("fence", Integer, nullable=False),
)

results = Table(
    "results",
    metadata,
    Column("key", Text, primary_key=True),
    Column("job", ForeignKey("jobs.number"), nullable=False),
    Column("result", JSON, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("seen", Double, nullable=False),
)

catalogue = Table(
    "catalogue",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", JSON, nullable=False),
)

# Who may sign in. Names are in small letters.
users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("password", Text),  # as argon2 keeps it; NULL for one that only the lab's own proxy lets in
    Column("stamp", Text, nullable=False),  # of sign-ins that still hold
    Column("added", Double, nullable=False),
)

# Sign-ins that failed lately, each counted twice: for the name and for the address.
failures = Table(
    "failures",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("counted", Text, nullable=False),
    Column("at", Double, nullable=False),
)
Index("failures_counted", failures.c.counted, failures.c.at)
