"""What Alembic runs: migrate over the connection that `upgrade` hands in, and nothing else."""

from __future__ import annotations

from alembic import context

from storage.sql.models import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
