"""Groups of images that belong together, such as the frames of a video or the crops of a slide."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from .dataset import ImageSet
from .leaks import image_families
from .read_image import printable

COPIES, FOLDER, COLUMN = "copies", "folder", "column:"
FORMS = "folder, copies, column:NAME of a CSV file, or a regular expression on the images' paths"


def check_group_by(rule: str) -> None:
    """Raise ConfigError where the rule is neither a word, a column nor a regular expression."""
    if rule in (COPIES, FOLDER) or (rule.startswith(COLUMN) and rule != COLUMN):
        return
    try:
        re.compile(_expression(rule))
    except re.error as error:
        raise ConfigError(f"group_by is {rule!r}, no regular expression ({error}): expected {FORMS}.") from None
    if not _expression(rule):
        raise ConfigError(f"group_by is empty: expected {FORMS}.")


def column_of(rule: str | None) -> str | None:
    """The column of a CSV file that the rule names; None for other rules."""
    return rule.removeprefix(COLUMN) if rule is not None and rule.startswith(COLUMN) else None


def grouped(images: ImageSet, rule: str | None) -> ImageSet:
    """The images with the groups that a rule gives them; as they are for None.

    Raises:
        ConfigError: no such rule.
        DataError: an image without a group, or all of them in one.
    """
    if rule is None:
        return images
    check_group_by(rule)
    groups = groups_of(images, rule)
    if len(images) > 1 and len(np.unique(groups)) < 2:
        raise DataError(
            f"group_by is {rule!r}, and all {len(images)} images are of one group, which says nothing about others: "
            "change it, or give more groups."
        )
    return replace(images, groups=groups)


def groups_of(images: ImageSet, rule: str) -> NDArray[np.str_]:
    """(N,) the group of each image by a rule that needs no more than the images.

    Raises:
        DataError: an image without a group, or a column, which only a CSV file has.
    """
    if column_of(rule) is not None:
        raise DataError(f"group_by is {rule!r} and these images have no columns: only a CSV file has them.")
    if rule == COPIES:
        return np.array(image_families(images)[0])
    strata = images.targets.strata
    return np.array(groups_by_path(images.ids, [0] * len(images) if strata is None else strata.tolist(), rule))


def groups_by_path(ids: Sequence[str], labels: Sequence[object], rule: str) -> tuple[str, ...]:
    """The group of each image by its path: that of its folder, or what a regular expression finds.

    A regular expression gives its first group, or else all that it matches; paths are written as in reports,
    for example "test/ants/video3/0001.jpg".

    Args:
        ids: paths of the images, relative to the data.
        labels: something that tells their classes apart, so that folders of classes are not taken for groups.
        rule: "folder" or a regular expression.

    Raises:
        DataError: an image without a group, or folders that are the classes.
    """
    if rule == FOLDER:
        found: list[str] = [posixpath.dirname(image_id) for image_id in ids]
        if len(set(found)) <= len(set(labels)) and len(set(zip(found, labels, strict=True))) == len(set(found)):
            raise DataError(
                f"group_by is 'folder', and the images lie in {len(set(found))} folders, which are their classes: put the "
                "images of each group into a folder of its own below the class, or give a regular expression."
            )
        return tuple(found)
    expression = re.compile(_expression(rule))
    matches = [expression.search(image_id) for image_id in ids]
    missing = [image_id for image_id, match in zip(ids, matches, strict=True) if match is None]
    if missing:
        of = "none of them" if len(missing) == len(ids) else f"{len(ids) - len(missing)} of {len(ids)}"
        raise DataError(
            f"group_by is {rule!r}, which matches {of}; for example not {printable(missing[0])}: every image needs a group, "
            f"so change it (expected {FORMS})."
        )
    return tuple((match.group(1) if expression.groups else match.group(0)) or "" for match in matches if match)


def _expression(rule: str) -> str:
    return rule.removeprefix("regex:")
