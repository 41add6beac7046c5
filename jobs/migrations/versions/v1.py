"""The first tables: jobs, their units, attempts at them, results, turns, workers and the catalogue."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

_LIVE = sa.text("state IN ('queued', 'running')")
_CLEANING = sa.text("cleaning")
_WAITING = sa.text("state = 'waiting'")
_HELD = sa.text("outcome IS NULL")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "jobs",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("study", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("submitted", sa.Double, nullable=False),
        sa.Column("started", sa.Double),
        sa.Column("finished", sa.Double),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("units_done", sa.Integer, nullable=False),
        sa.Column("units_total", sa.Integer, nullable=False),
        sa.Column("images_done", sa.Integer, nullable=False),
        sa.Column("images_total", sa.Integer, nullable=False),
        sa.Column("rate", sa.Double),
        sa.Column("beat", sa.Double),
        sa.Column("cleaning", sa.Boolean, nullable=False),
        sa.Column("cause", sa.Text),
        sa.Column("log", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("facts", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("one_live_job_a_key", "jobs", ["key"], unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE)
    op.create_index("one_live_job_a_study", "jobs", ["study"], unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE)
    op.create_index("live_jobs", "jobs", ["queue", "number"], sqlite_where=_LIVE, postgresql_where=_LIVE)
    op.create_index("cleaning_jobs", "jobs", ["study"], sqlite_where=_CLEANING, postgresql_where=_CLEANING)
    op.create_index("jobs_by_kind", "jobs", ["kind", "number"])
    op.create_index("jobs_by_state", "jobs", ["state"])

    op.create_table(
        "units",
        sa.Column("job", sa.Integer, sa.ForeignKey("jobs.number"), primary_key=True),
        sa.Column("phase", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("lost", sa.Integer, nullable=False),
        sa.Column("started", sa.Double),
        sa.Column("finished", sa.Double),
        sa.Column("facts", sa.JSON),
    )
    op.create_index(
        "waiting_units",
        "units",
        ["job", "phase", "number", "not_before"],
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )
    op.create_index("units_by_end", "units", ["job", "finished", "started", "images"])

    op.create_table(
        "attempts",
        sa.Column("fence", sa.Integer, primary_key=True),
        sa.Column("job", sa.Integer, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("bell", sa.Text, nullable=False),
        sa.Column("taken", sa.Double, nullable=False),
        sa.Column("beat", sa.Double, nullable=False),
        sa.Column("lapses", sa.Double, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("counted", sa.Text, nullable=False),
        sa.Column("ended", sa.Double),
        sa.Column("outcome", sa.Text),
        sa.Column("cause", sa.Text),
        sa.ForeignKeyConstraint(["job", "phase", "number"], ["units.job", "units.phase", "units.number"]),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "one_lease_a_unit",
        "attempts",
        ["job", "phase", "number"],
        unique=True,
        sqlite_where=_HELD,
        postgresql_where=_HELD,
    )

    op.create_table(
        "turns",
        sa.Column("queue", sa.Text, primary_key=True),
        sa.Column("who", sa.Text, primary_key=True),
        sa.Column("fence", sa.Integer, nullable=False),
    )
    op.create_table(
        "results",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("job", sa.Integer, sa.ForeignKey("jobs.number"), nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
    )
    op.create_table(
        "catalogue",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )
