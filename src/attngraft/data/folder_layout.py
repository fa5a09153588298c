"""Decide which folders of a data set are splits and which are classes: by what they hold, and only then by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .class_names import quoted
from .folder_checks import LAYOUT, SeenFolder, check_are_classes, check_hold_classes, instead_of_folders
from .read_image import EXTENSIONS, printable
from .split_names import ALL_CLASSES, PART, as_option, likely_split, parse_splits, split_of
from .walk_folders import entries, holds_images, is_folder, is_image, walk

_NO_CLASS = {"image", "images", "img", "imgs", "all", "unknown", "unlabelled", "unlabeled"}


@dataclass(frozen=True)
class Layout:
    """Where the class folders lie.

    Attributes:
        bases: (split, folder relative to the data) of each folder whose folders are classes; the split is "" where
            the data has none, the folder "" where it is the data's own.
        notes: sentences on what was decided.
    """

    bases: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


def read_layout(root: Path, extensions: Collection[str] = EXTENSIONS, splits: str | None = None) -> Layout:
    """Decide what the folders of a data set are.

    Args:
        root: an existing folder.
        extensions: of images.
        splits: which folders are splits, as for `load_data`.

    Raises:
        DataError: there are no folders, or they may be taken for splits and for classes.
        ConfigError: `splits` does not say folders.
    """
    if splits is not None:
        return _as_said(root, parse_splits(splits))
    inside, seen = _inside(root, extensions)
    if not seen:
        raise DataError(f"{printable(root)} has no folders in it{instead_of_folders(root, extensions)}: {LAYOUT}.")
    place = root / inside
    layout = _by_names(place, seen, extensions) or _by_likely_names(place, seen)
    if layout is None:
        layout = Layout((("", ""),), check_are_classes(place, seen))
    if not inside:
        return layout
    note = f"the data was read from {printable(inside)} in it, the only folder with images."
    bases = tuple((split, f"{inside}/{base}".rstrip("/")) for split, base in layout.bases)
    return Layout(bases, (note, *layout.notes))


def _as_said(root: Path, pairs: tuple[tuple[str, str], ...]) -> Layout:
    for _, folder in pairs:
        if not (root / folder).is_dir():
            known = quoted([entry.name for entry in entries(root) if is_folder(entry)])
            raise DataError(f"splits names {printable(folder)}, which {printable(root)} does not have: it has {known}.")
    return Layout(pairs or (("", ""),))


# --- what is there ---------------------------------------------------------------------------------------------------
def look(folder: Path, extensions: Collection[str] = EXTENSIONS) -> list[SeenFolder]:
    """What the folders in it hold, by name."""
    return [_look_at(Path(entry.path), extensions) for entry in entries(folder) if is_folder(entry)]


def _look_at(folder: Path, extensions: Collection[str]) -> SeenFolder:
    found = entries(folder)
    inner = tuple(e.name for e in found if is_folder(e) and holds_images(Path(e.path), extensions))
    direct = any(not is_folder(entry) and is_image(entry.path, extensions) for entry in found)
    void = not (direct or inner) and next(walk(folder, "", set()), None) is None
    return SeenFolder(folder.name, direct, inner, void)


def _inside(root: Path, extensions: Collection[str]) -> tuple[str, list[SeenFolder]]:
    """The folder within, where it is all there is (data/data/cat), as its path, and what lies there."""
    first = seen = look(root, extensions)
    names: list[str] = []
    while (only := _only_parent(seen)) is not None:
        names.append(only.name)
        seen = look(root.joinpath(*names), extensions)
    usable = [one for one in seen if one.usable]
    is_data = len(usable) > 1 or any(split_of(one.name) for one in usable)
    return ("/".join(names), seen) if names and is_data else ("", first)


def _only_parent(seen: Sequence[SeenFolder]) -> SeenFolder | None:
    """The one folder with images, where these lie in folders and nothing beside it could be a class."""
    usable = [one for one in seen if one.usable]
    is_parent = len(usable) == 1 and usable[0].branch and not split_of(usable[0].name)
    return usable[0] if is_parent and not any(one.void for one in seen) else None


# --- splits that are called so ---------------------------------------------------------------------------------------
def _by_names(place: Path, seen: Sequence[SeenFolder], extensions: Collection[str]) -> Layout | None:
    """The splits where there is a train folder with folders in it."""
    chosen = _named_splits(place, seen)
    if "train" not in chosen:
        if chosen and len(chosen) == len(seen):
            names = quoted([one.name for one in seen])
            raise DataError(f"{printable(place)} has {names} but no train folder: add one with the same classes.")
        return None
    train = chosen.pop("train")
    base, classes = _class_folders(place, train, (), extensions)
    where = {split: _class_folders(place, one, classes, extensions) for split, one in chosen.items()}
    labelled = {split: base for split, (base, inner) in where.items() if _is_labelled(chosen[split], inner, classes)}
    beside = [one for one in seen if one is not train and one not in chosen.values()]
    added = {} if labelled else _partners(beside, classes)
    beside = [one for one in beside if one not in added.values()]
    if not (labelled or added):
        _check_lone_train(place, train, beside)
    notes = [_not_used(one) for split, one in chosen.items() if split not in labelled]
    notes += [_taken(added)] if added else []
    notes += [f"folders beside the splits were ignored: {quoted([one.name for one in beside])}."] if beside else []
    bases = {"train": base, **labelled, **{split: one.name for split, one in added.items()}}
    return Layout(tuple(bases.items()), tuple(notes))


def _named_splits(place: Path, seen: Sequence[SeenFolder]) -> dict[str, SeenFolder]:
    """The folders with names of splits, but for those that hold what classes hold."""
    beside_classes = any(one.direct and split_of(one.name) is None for one in seen)
    named = [(split, one) for one in seen if (split := split_of(one.name)) is not None]
    acting = [
        (split, one) for split, one in named if one.branch or not (beside_classes or (one.direct and not one.inner))
    ]
    if any(split == "train" for split, _ in acting):  # then val and test are splits too, if without labels
        acting += [(split, one) for split, one in named if split != "train" and (split, one) not in acting]
    found: dict[str, SeenFolder] = {}
    for split, one in acting:
        if split in found:
            raise DataError(
                f"{printable(place)} has both {found[split].name} and {one.name}: keep one folder for this split."
            )
        found[split] = one
    return found


def _class_folders(
    place: Path, split: SeenFolder, known: Collection[str], extensions: Collection[str]
) -> tuple[str, tuple[str, ...]]:
    """Where the classes of a split lie, and their names: within a folder, where that is all there is (train/train/cat)."""
    if split.branch and len(split.inner) == 1:
        inner = _look_at(place / split.name / split.inner[0], extensions)
        is_around = inner.name not in known or len(set(inner.inner) & set(known)) > 1  # a class may be called so too
        if inner.branch and len(inner.inner) > 1 and is_around:
            return f"{split.name}/{inner.name}", inner.inner
    return split.name, split.inner


def _is_labelled(split: SeenFolder, inner: Sequence[str], classes: Collection[str]) -> bool:
    """Whether its images lie in class folders; one without images is left to be refused."""
    if split.direct:
        return bool(set(inner) & set(classes))
    only = inner[0] if len(inner) == 1 else None
    return only is None or only in classes or not (only.lower() in _NO_CLASS or split_of(only))


def _partners(beside: Sequence[SeenFolder], classes: Collection[str]) -> dict[str, SeenFolder]:
    """Folders whose names speak of val or test, one of each, and that hold the classes of the training images."""
    alike = [one for one in beside if one.branch and set(one.inner) & set(classes)]
    found = [(likely_split(one.name), one) for one in alike]
    counts = Counter(split for split, _ in found)
    return {split: one for split, one in found if split in ("val", "test") and counts[split] == 1}


def _check_lone_train(place: Path, train: SeenFolder, beside: Sequence[SeenFolder]) -> None:
    """Refuse a train folder that may as well be a class among others, or one split of several."""
    others = [one for one in beside if one.usable]
    if len(others) > 1 or any(one.branch for one in others):
        raise DataError(
            f"{printable(place)} has the folder {train.name} with folders in it, and beside it "
            f"{quoted([one.name for one in others])}: say {as_option([('train', train.name)])} (splits=...) and which others "
            f"are splits, or --splits {ALL_CLASSES} where all are classes."
        )


def _not_used(one: SeenFolder) -> str:
    where = f"in {one.inner[0]!r}, which is none of the classes" if one.inner else "in no class folders"
    return f"the images in {printable(one.name)} were not used: they lie {where}, so they have no labels."


def _taken(splits: dict[str, SeenFolder]) -> str:
    return f"{' and '.join(f'{printable(one.name)} was taken for the {split} split' for split, one in splits.items())}."


# --- splits by other names -------------------------------------------------------------------------------------------
def _by_likely_names(place: Path, seen: Sequence[SeenFolder]) -> Layout | None:
    """The splits where all names speak of them and all folders hold the same classes; None where none speaks of one.

    Raises:
        DataError: it is not certain.
    """
    usable = [one for one in seen if one.usable]
    spoken = [(split, one) for one in usable if (split := likely_split(one.name)) is not None]
    kinds = Counter(split for split, _ in spoken)
    if len(kinds) < 2 and kinds[PART] < 2:
        return None
    if not any(one.branch for _, one in spoken):
        if len(spoken) == len(usable):
            check_hold_classes(place, usable)
        return None
    first = dict(spoken)
    alike = any(set(one.inner) & set(other.inner) for _, one in spoken for _, other in spoken if one is not other)
    if len(spoken) < len(usable) and not alike:
        return None
    train = first.get("train")
    if train is None or PART in kinds or max(kinds.values()) > 1 or len(spoken) < len(usable):
        raise _uncertain(place, usable, spoken)
    if not all(one.branch and set(one.inner) == set(train.inner) for _, one in spoken):
        raise _uncertain(place, usable, spoken)
    return Layout(tuple((split, one.name) for split, one in first.items()), (_taken(first),))


def _uncertain(place: Path, usable: Sequence[SeenFolder], spoken: Sequence[tuple[str, SeenFolder]]) -> DataError:
    """The refusal of folders that look like splits, with what to say."""
    splits = [split if split != PART else "train" for split, _ in spoken]
    if "test" not in splits and "val" not in splits:
        splits[0] = "test"
    pairs = [(split, one.name) for split, (_, one) in zip(splits, spoken, strict=True) if one.inner]
    example = as_option(pairs[:6]) if "train" in dict(pairs) else "--splits train=FOLDER,test=FOLDER"
    return DataError(
        f"{printable(place)} has {quoted([one.name for one in usable])}, which look like splits and not like classes: say "
        f"which they are, for example {example} (splits=...), or --splits {ALL_CLASSES} where they are classes."
    )
