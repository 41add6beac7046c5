"""Where does alembic run? On the connection that opens the ledger, inside its transaction: all steps or none."""

from alembic import context

from jobs.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
