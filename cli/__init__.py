"""The command line ``prefect-n8n`` and the all-in-one ``up``."""
