"""Timestamps of records."""

from __future__ import annotations

from datetime import datetime, timezone


def timestamp() -> str:
    """Now in UTC to the second, as in ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
