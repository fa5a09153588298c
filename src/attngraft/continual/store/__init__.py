"""Versions of one model, which of them is served, and a journal of how that came about."""
