"""Whether a candidate may follow the served version: exact tests and one error budget."""
