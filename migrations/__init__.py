"""Alembic environment and versions of schema ``prefect_n8n``; ``run.migrate`` applies them."""
