"""Users, and the sign-ins that failed lately."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "users",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("password", sa.Text),
        sa.Column("stamp", sa.Text, nullable=False),
        sa.Column("added", sa.Double, nullable=False),
    )
    op.create_table(
        "failures",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("counted", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("failures_counted", "failures", ["counted", "at"])
