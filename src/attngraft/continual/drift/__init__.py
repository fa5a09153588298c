"""Drift tests on predictions, inputs and errors of a stream."""
