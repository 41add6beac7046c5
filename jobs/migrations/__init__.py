"""How does an older ledger become this one? Each version's steps, run by alembic when a ledger is opened."""
