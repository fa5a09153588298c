"""Tests for drift of a stream: of its predictions, its inputs, and its errors."""
