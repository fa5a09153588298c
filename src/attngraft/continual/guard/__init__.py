"""Whether a candidate may replace the served version: exact tests and one error budget."""
