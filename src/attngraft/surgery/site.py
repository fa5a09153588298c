"""A place in a backbone where attention can go."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A module of the backbone whose output is passed through an attention.

    Attributes:
        path: its name in `named_modules()`.
        channels: C of its output.
        height: H of its output at the input size that was used.
        width: W of its output.
        reason: why it was chosen, for people.
        channels_last: whether its output is (B, H, W, C) and not (B, C, H, W).
    """

    path: str
    channels: int
    height: int
    width: int
    reason: str
    channels_last: bool = False
