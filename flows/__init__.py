"""What an operator sees in the Prefect UI: flows over events, and the decorator that makes them."""
