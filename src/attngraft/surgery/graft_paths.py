"""Names of modules and tensors that belong to grafts."""

from __future__ import annotations

CHILD = "graft"  # what the attention is called in its host


def is_inside_graft(path: str) -> bool:
    """Whether a path or the name of a tensor is that of a graft or of something in one."""
    return CHILD in path.split(".")
