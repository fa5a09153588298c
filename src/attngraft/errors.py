"""The errors a user can cause, each one sentence: what was got, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AttngraftError(Exception):
    """Base of every error that the user can mend. The CLI prints it as one sentence and exits with 2."""


class ConfigError(AttngraftError):
    """An option, a recipe or a name is not valid."""


class BackboneError(AttngraftError):
    """A backbone cannot be created or its weights cannot be had."""


class InputError(AttngraftError, TypeError):
    """A tensor is of a type that an attention does not take."""


class GraftError(AttngraftError):
    """A plan does not fit the model, or grafts are not live."""


class DataError(AttngraftError):
    """A data set cannot be read or does not make sense."""


class RunError(AttngraftError):
    """A run folder cannot be read, or belongs to something else."""


class InUseError(RunError):
    """Another process holds the lock; later it may be free."""


class TrainingError(AttngraftError):
    """Training cannot go on, for example because the loss is not finite."""


def nearest(name: str, options: Iterable[str]) -> str:
    """A clause that helps with a misspelt name.

    >>> nearest("cbma", ["cbam", "se"])
    "did you mean 'cbam'?"
    >>> nearest("zzzzzz", ["cbam", "se"])
    'known: cbam, se'
    """
    names = sorted(set(options))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    return f"known: {shown}" if names else "none are known"
