"""Compare two lists of class names, and explain how they differ."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ..errors import closest

_SHOWN = 5


def class_changes(before: Sequence[str], after: Sequence[str]) -> str:
    """How the second list of names differs from the first, as a clause; empty where they are equal.

    >>> class_changes(("ant", "bee"), ("Ant", "bee", "wasp"))
    "new: 'Ant', 'wasp'; gone: 'ant'; 'ant' and 'Ant' differ in upper and lower case alone"
    >>> class_changes(("ant", "bee"), ("bee", "ant"))
    'the same names in another order'
    """
    if tuple(before) == tuple(after):
        return ""
    gone, new = (sorted(set(one) - set(other)) for one, other in ((before, after), (after, before)))
    if not gone and not new:
        return "the same names in another order"
    parts = [f"{word}: {quoted(names)}" for word, names in (("new", new), ("gone", gone)) if names]
    return "; ".join([*parts, *filter(None, [likely_cause(gone, new)])])


def likely_cause(gone: Sequence[str], new: Sequence[str]) -> str:
    """Why names that look the same are not, as a clause; empty where none do.

    >>> likely_cause(["caf\\u00e9"], ["cafe\\u0301"])
    "'caf\\\\xe9' and 'cafe\\\\u0301' are the same letters in different Unicode forms"
    """
    for folded, what in (
        (_composed, "are the same letters in different Unicode forms"),
        (lambda name: _composed(name).strip(), "differ in spaces around them alone"),
        (lambda name: _composed(name).casefold().strip(), "differ in upper and lower case alone"),
    ):
        known = {folded(name): name for name in gone}
        for name in new:
            if folded(name) in known:
                other = known[folded(name)]
                shown = [ascii(text) if _composed(name) == _composed(other) else repr(text) for text in (other, name)]
                return f"{shown[0]} and {shown[1]} {what}"
    return ""


def unknown_classes(where: str, strange: Sequence[str], known: Sequence[str], advice: str) -> str:
    """The sentence for images of classes that a model does not know."""
    shown, have = (", ".join(map(repr, names[:3])) + ", ..." * (len(names) > 3) for names in (strange, known))
    cause, close = likely_cause(known, strange), closest(strange[0], known)
    hint = f"{cause}; " if cause else f"did you mean {close!r}? Otherwise " if close else ""
    return (
        f"{where} has {'a class' if len(strange) == 1 else f'{len(strange)} classes'} that the model does not know ({shown}): "
        f"it knows {len(known)} ({have}); {hint}{advice}."
    )


def quoted(names: Sequence[str]) -> str:
    """The first names, for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
