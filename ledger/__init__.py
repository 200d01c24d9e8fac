"""The truth on disk: tables, states, transactions, named queries, inbox and audit."""
