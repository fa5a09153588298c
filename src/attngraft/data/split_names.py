"""Names of splits: those of this library, what people call their folders, and how they are said with an option."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import ConfigError

# What people call the splits; the first name is the one used in this library.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
PART = "part"  # one of several, such as a fold
ALL_CLASSES = "none"
_OF_WHAT = r"(sets?|data|dataset|images?|imgs?|pics|photos|dir|folder|split|samples?|daten|bilder)?"
_LIKELY = {
    "train": re.compile(rf"(train|training|trainings|trn)(val|valid|validation)?{_OF_WHAT}"),
    "val": re.compile(rf"(val|valid|validation|validate|dev){_OF_WHAT}"),
    "test": re.compile(rf"(test|testing|tests|tst|eval|evaluation|holdout|heldout){_OF_WHAT}"),
}
_PART = re.compile(r"(k?folds?|split|partition)[\W_]*(\d+|[a-z])", re.IGNORECASE)


def split_of(name: str) -> str | None:
    """The split that a name stands for; None for other names."""
    return SPLIT_NAMES.get(name.lower())


def likely_split(name: str) -> str | None:
    """The split that a name speaks of: train, val, test or part; None where it speaks of none.

    >>> [likely_split(name) for name in ("train_images", "TestSet", "val2017", "trainval", "fold_3", "trains", "fold")]
    ['train', 'test', 'val', 'train', 'part', None, None]
    """
    if _PART.fullmatch(name):
        return PART
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    found = {split for word in (*words, "".join(words)) for split, known in _LIKELY.items() if known.fullmatch(word)}
    if len(found) < 2:
        return next(iter(found), None)
    return "train" if found == {"train", "val"} else PART


def parse_splits(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of split and folder from "train=FOLDER,test=FOLDER"; none for "none", which says that folders are classes.

    >>> parse_splits("train=fold0,train=fold1,test=fold2")
    (('train', 'fold0'), ('train', 'fold1'), ('test', 'fold2'))

    Raises:
        ConfigError: it says something else, no training folder, or a folder twice or outside of the data.
    """
    if text.strip().lower() == ALL_CLASSES:
        return ()
    expected = "expected train=FOLDER,test=FOLDER (also val=, and a split may have several), or none"
    pairs = []
    for part in text.split(","):
        name, _, folder = (piece.strip() for piece in part.partition("="))
        folder = folder.replace("\\", "/").strip("/") if not folder.startswith("/") else ""
        if split_of(name) is None or not folder or {"..", "."} & set(folder.split("/")):
            raise ConfigError(
                f"splits is {text!r}, and {part.strip()!r} is no folder of a split in the data: {expected}."
            )
        pairs.append((SPLIT_NAMES[name.lower()], folder))
    folders = [folder for _, folder in pairs]
    if len(set(folders)) < len(folders) or "train" not in dict(pairs):
        problem = "names no folder for train" if "train" not in dict(pairs) else "names a folder twice"
        raise ConfigError(f"splits is {text!r}, which {problem}: {expected}.")
    return tuple(pairs)


def as_option(pairs: Iterable[tuple[str, str]]) -> str:
    """How folders of splits are said."""
    order = list(dict.fromkeys(SPLIT_NAMES.values()))
    return "--splits " + ",".join(
        f"{split}={folder}" for split, folder in sorted(pairs, key=lambda p: order.index(p[0]))
    )
