"""Decide whether a candidate may replace the served version: exact tests, one error budget."""
