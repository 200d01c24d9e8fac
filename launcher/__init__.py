"""From due events to flow runs: claim, launch, run, rescue. Replicas share one ledger."""
