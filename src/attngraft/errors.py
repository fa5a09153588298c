"""Errors that users can cause, each one sentence: what was got, expected, and what to do."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Iterable

LONGEST = 2000  # characters of a message; names from files can be of any length
_BREAKS = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")
_LONG_WORDS = re.compile(r"[^\W\d_]{4,}")


class AttngraftError(Exception):
    """Base of every error that the user can mend. The CLI prints it as one sentence and exits with 2.

    Its text is one line without control characters, whatever names it quotes.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


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


class LoaderError(DataError):
    """A process that prepares images has died."""


class RunError(AttngraftError):
    """A run folder cannot be read, or belongs to something else."""


class InUseError(RunError):
    """Another process holds the lock; later it may be free."""


class TrainingError(AttngraftError):
    """Training cannot go on, for example because the loss is not finite."""


class NotFiniteError(TrainingError):
    """A number in training is not finite; the recipe's `on_nonfinite` says what is done about it."""


class PeerError(TrainingError):
    """Another process of the same training has ended or hangs."""


def nearest(name: str, options: Iterable[str]) -> str:
    """A clause that helps with a misspelt name.

    >>> nearest("cbma", ["cbam", "se"])
    "did you mean 'cbam'?"
    >>> nearest("SE", ["cbam", "se"])
    "did you mean 'se'?"
    >>> nearest("zzzzzz", ["cbam", "se"])
    'known: cbam, se'
    """
    name, names = name[:100], sorted({*options} - {""})  # the root of a network has no name
    close = closest(name, names)
    if close is not None:
        return f"did you mean '{close}'?"
    shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    return f"known: {shown}" if names else "none are known"


def closest(name: str, options: Iterable[str]) -> str | None:
    """The option that a misspelt name may be; None where there is none like it.

    >>> closest("papr", ["paper", "glass"]), closest("dropout", ["root", "lr"])
    ('paper', None)
    """
    names = sorted(set(options))
    same = [known for known in names if known.casefold() == name.casefold()]
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.5)  # letters in order, however far apart
    return next((known for known in [*same, *alike] if _is_near(name[:100].casefold(), known[:100].casefold())), None)


def _is_near(name: str, known: str) -> bool:
    """Whether one is within the other, they share a word, or few edits lead from one to the other."""
    longer, shorter = sorted((name, known), key=len, reverse=True)
    if (len(shorter) > 2 and shorter in longer) or {*_LONG_WORDS.findall(name)} & {*_LONG_WORDS.findall(known)}:
        return True
    return _edits(name, known) <= max(1, len(longer) // 3)


def _edits(name: str, known: str) -> int:
    """Letters to add, remove, replace, or swap with their neighbour (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(known) + 1))
    for i, letter in enumerate(name):
        row = [i + 1]
        for j, other in enumerate(known):
            row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (letter != other)))
            if i and j and letter == known[j - 1] and other == name[i - 1]:
                row[-1] = min(row[-1], before[j - 1] + 1)
        before, last = last, row
    return last[-1]


def one_line(text: str, longest: int = LONGEST) -> str:
    r"""The text as a line that is safe to show: breaks are spaces, what cannot be seen is escaped, the middle is cut.

    >>> one_line("a\n b\x1b[31m"), one_line("abcdefghij", longest=4)
    ('a b\\x1b[31m', 'ab...ij')
    """
    if len(text) > longest:
        text = f"{text[: longest // 2]}...{text[-longest // 2 :]}"
    return visible(_BREAKS.sub(" ", text))


def visible(text: str) -> str:
    r"""The text with an escape for every character that cannot be seen, or that steers a terminal.

    >>> visible("\x1b[2J \u202e né")
    '\\x1b[2J \\u202e né'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def counted(count: int, noun: str, verb: str = "") -> str:
    """A number with its noun, all of whose plurals end in s, and a verb in the plural.

    >>> counted(1, "image"), counted(2500, "image", "are"), counted(1, "site", "add")
    ('1 image', '2,500 images are', '1 site adds')
    """
    one = {"are": "is", "were": "was", "have": "has"}
    said = verb if count != 1 or not verb else one.get(verb, f"{verb}s")
    return f"{count:,} {noun}{'' if count == 1 else 's'} {said}".rstrip()


def command(*words: object) -> str:
    """A command to type, with quotes where a shell needs them.

    >>> command("store", "my store", "--create", "RUN")
    "attngraft store 'my store' --create RUN"
    """
    return shlex.join(["attngraft", *map(str, words)])


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters; the name of its class where it has none.

    >>> first_line(ValueError("shapes differ\\n(2, 3) and (3, 2)"))
    'shapes differ'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def listed(names: Collection[str], most: int = 3) -> str:
    """The first few of some names, quoted and sorted.

    >>> listed(["b", "a", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    shown = ", ".join(f"'{name[:100]}'" for name in sorted(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
