"""The HTTP edge: verifies webhooks, commits them, answers. Never calls Prefect in a handler."""
