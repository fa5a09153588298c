"""Check JSON documents against the schemas that reports need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import RunError

NUMBER = (int, float)
MAYBE_NUMBER = (int, float, type(None))


@dataclass(frozen=True)
class Whole:
    """Inside a shape whose keys are optional: an entry that is there must have all of this."""

    shape: Any


STORE = {"kind": str, "served": str, "base": str, "classes": [str], "versions": [{"id": str, "status": str}]}
ADAPTED = {"name": str, "new_top1": MAYBE_NUMBER, "old_top1": MAYBE_NUMBER}
ROLES = {"learn": NUMBER, "tune": NUMBER, "guard": NUMBER, "final": NUMBER}
COST = {"changed_parameters": NUMBER, "parameters": NUMBER, "delta_bytes": NUMBER}
ADAPTATION = {
    "number": NUMBER,
    "status": str,
    "sentence": str,
    "data": {"name": str, "images": NUMBER, "labels_used": NUMBER, "roles": ROLES, "duplicates": NUMBER},
    "candidate": str,
    "blend": {
        "chosen": NUMBER,
        "tried": [Whole({"weight": NUMBER, **dict.fromkeys(("new_top1", "old_top1"), NUMBER)})],
    },
    "variants": [{**ADAPTED, **COST, "minutes": NUMBER}],
    "new_images": NUMBER,
    "old_images": NUMBER,
    "recovery": NUMBER,
    "guard": {"attempt": NUMBER, "alpha": NUMBER, "new_images": NUMBER, "old_images": NUMBER},
    "refused": str,
    "minutes": NUMBER,
}
WINDOW = {"number": NUMBER, "images": NUMBER, "drift": bool, "reasons": [str]}
OPTIONAL_STORE = {
    "created": str,
    "policy": {},
    "versions": [{"parent": str, "created": str, "update": str, **COST}],
    "domains": [Whole({"name": str, "images": NUMBER})],
    "matrix": [[MAYBE_NUMBER]],
    "transfer": {"forgetting": NUMBER, "backward": NUMBER, "forward": NUMBER},
    "ledger": [Whole({"attempt": NUMBER, "alpha": NUMBER, "spent": NUMBER, "candidate": str})],
    "adaptations": [ADAPTATION],
    "stream": {
        "windows": [Whole(WINDOW)],
        "alarms": NUMBER,
        "false_alarms": NUMBER,
        "delay_windows": NUMBER,
    },
    "releases": [
        {"version": str, "created": str, "images": NUMBER, "top1": NUMBER, "per_domain": [Whole({"name": str})]}
    ],
    "events": [Whole({"event": str})],
}


def require(value: Any, shape: Any, where: str, *, optional: bool = False) -> None:
    """Compare a document with a shape: dicts by key, lists entry by entry, leaves by type.

    Args:
        value: the document.
        shape: a type, a tuple of types, ``[shape of each entry]``, ``{key: shape}`` or ``Whole(shape)``.
        where: what to call the document in the error.
        optional: keys may be missing or null.

    Raises:
        RunError: the first entry that does not fit, by its path.
    """
    if isinstance(shape, Whole):
        require(value, shape.shape, where)
    elif isinstance(shape, dict):
        _require_type(value, dict, where)
        for key, inner in shape.items():
            if value.get(key) is not None or not optional:
                if key not in value:
                    raise RunError(f"{where} has no '{key}': copy the whole folder again or repeat the run.")
                require(value[key], inner, f"{where}: {key}", optional=optional)
    elif isinstance(shape, list):
        _require_type(value, list, where)
        for index, entry in enumerate(value):
            require(entry, shape[0], f"{where}[{index}]", optional=optional)
    else:
        _require_type(value, shape, where)


def _require_type(value: Any, kind: Any, where: str) -> None:
    fits = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise RunError(
            f"{where} is {str(value)[:40]!r}: expected {_word(kind)}; copy the whole folder again or repeat the run."
        )


def _word(kind: Any) -> str:
    words = {
        dict: "an object",
        list: "a list",
        str: "text",
        NUMBER: "a finite number",
        MAYBE_NUMBER: "a finite number or null",
        bool: "true or false",
    }
    return words.get(kind, "something else")
