"""The folder of a comparison: its settings, and whether it may be continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..checksums import read_record, write_record
from ..config import from_dict, to_dict
from ..data import class_changes
from ..environment import versions
from ..errors import RunError
from ..formats import RECORD_FORMATS
from ..settings.recipe import completed_recipe
from ..surgery.own_networks import check_unchanged
from ..tasks import describe_task
from ..training import PREDICTIONS_FILE, DataRecord, Precision, choose_precision, parse_precision
from ..training.disk_space import check_space
from ..training.run_folder import is_leftover
from .comparison_context import ComparisonContext
from .variants import (
    BASELINE,
    Variant,
    again,
    parse_variant,
)

COMPARISON_FILE = "comparison.json"
AGAIN_SLUG = again().slug


def describe_request(
    context: ComparisonContext, variants: Sequence[Variant], seeds: Sequence[int], weights: str | None
) -> dict[str, Any]:
    """What was asked for; a folder can be continued only with the same, or with more seeds and variants.

    Args:
        context: of the comparison.
        variants: the columns.
        seeds: of their runs.
        weights: what a file of weights to start from is called; None without one.
    """
    task, described = describe_task(context.task), context.analysis.describe()
    groups = context.dataset.test.groups
    if groups is not None:
        described |= {
            "group_by": context.dataset.grouped_by or "groups of the data set",
            "groups": len(np.unique(groups)),
        }
    return {
        "format": RECORD_FORMATS["comparison"],
        "kind": "comparison",
        **({"task": task} if task else {}),
        "metric": context.metric.describe(),
        **({"analysis": described} if described else {}),
        "data": to_dict(_data_record(context)),
        "backbone": context.source.backbone,
        "pretrained": context.source.pretrained,
        "weights": weights,
        "recipe": to_dict(context.settings.recipe),
        "preprocessing": to_dict(context.preprocessing),
        "seeds": list(seeds),
        "baseline": BASELINE,
        "requested": [{"name": v.name, "role": v.role, "slug": v.slug} for v in variants],
    }


def _data_record(context: ComparisonContext) -> DataRecord:
    """Of folds, all images are test images at some time, and none are only training images."""
    found = DataRecord.of(context.dataset)
    return found if context.folds is None else replace(found, train_images=None)


def earlier_variants(folder: Path) -> tuple[Variant, ...]:
    """Variants that were trained in this folder before.

    They stay columns of the comparison: leaving out what did not look good would make the rest look better.
    """
    rows = _earlier(folder).get("requested", [])
    done = [row for row in rows if any(folder.glob(f"runs/{row['slug']}/seed-*/{PREDICTIONS_FILE}"))]
    return tuple(
        parse_variant(BASELINE if row["slug"] == AGAIN_SLUG else row["name"], row["role"])
        for row in done
        if row["role"] != "baseline"
    )


def with_earlier_seeds(folder: Path, seeds: Sequence[int], variants: Sequence[Variant] = ()) -> tuple[int, ...]:
    """The seeds that the folder was concluded with, the new ones, and those in which every variant was trained.

    None is left out again: which seeds enter must not depend on what came out.
    """
    looks = _earlier(folder).get("looks") or [[]]
    trained = [_trained_seeds(folder, variant) for variant in variants] if is_comparison(folder) else []
    whole = sorted(set.intersection(*trained)) if trained else []
    return tuple(dict.fromkeys([*looks[-1], *seeds, *whole]))


def _trained_seeds(folder: Path, variant: Variant) -> set[int]:
    runs = folder.glob(f"runs/{variant.slug}/seed-*/{PREDICTIONS_FILE}")
    numbers = (run.parent.name.removeprefix("seed-") for run in runs)
    return {int(number) for number in numbers if number.isdigit()}


def _earlier(folder: Path) -> dict[str, Any]:
    """What the folder says so far; nothing where it is new. Whether it may be continued is checked on opening."""
    found = read_comparison(folder) if is_comparison(folder) else {}
    if "predictions" in found:
        raise RunError(f"the comparison in {folder} was made from files of predictions: choose a new folder.")
    return found


def is_comparison(folder: Path) -> bool:
    """Whether a comparison was begun in this folder."""
    return (folder / COMPARISON_FILE).is_file()


def read_comparison(folder: Path) -> dict[str, Any]:
    """The content of `comparison.json`.

    Raises:
        RunError: missing, damaged, changed after it was written, not a comparison, or of another version.
    """
    return read_record(folder / COMPARISON_FILE, "comparison")


def write_comparison(folder: Path, document: Mapping[str, Any]) -> None:
    """Write `comparison.json`."""
    write_record(folder / COMPARISON_FILE, "comparison", document)


MEASURED_ONCE = ("matched", "at_start")  # entries that stay when the record is written anew


def keep(folder: Path, key: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Note in an entry of `comparison.json` what was measured once."""
    document = read_comparison(folder)
    merged = {**document.get(key, {}), **entries}
    if merged != document.get(key, {}):
        write_comparison(folder, {**document, key: merged})


def measured_once(document: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `comparison.json` that stay when it is written anew."""
    return {key: document[key] for key in MEASURED_ONCE if key in document}


FIXED = ("backbone", "pretrained", "weights", "recipe", "preprocessing")


def open_comparison(
    context: ComparisonContext,
    request: Mapping[str, Any],
    template: nn.Module,
    claim: Callable[[], None],
    needed_bytes: int,
) -> Precision:
    """Begin the comparison or come back to it; the precision that all its runs use is returned.

    Args:
        context: of the comparison.
        request: as from `describe_request`.
        template: a model to time precisions with.
        claim: makes sure that this process uses the folder alone; called before anything is written.
        needed_bytes: that the whole comparison takes on the disk.
    """
    folder, settings = context.folder, context.settings
    fixed = parse_precision(settings.machine.precision)
    if is_comparison(folder):
        claim()
        found = read_comparison(folder)
        _check_same(folder, found, request)
        precision = from_dict(Precision, found["precision"], where="precision")
        if fixed is not None and fixed != precision:
            raise RunError(f"the comparison in {folder} was begun with precision {precision}: choose a new folder.")
    else:
        if folder.is_dir() and not all(is_leftover(item) for item in folder.iterdir()):
            raise RunError(f"{folder} has files but no {COMPARISON_FILE}: choose an empty or a new folder.")
        check_space(folder, needed_bytes)
        claim()
        spec, batch_size = context.preprocessing.input, settings.recipe.batch_size
        precision = fixed or choose_precision(
            template, spec=spec, batch_size=batch_size, device=context.device, task=context.task
        )
        found = {}
    if found.get("status") != "finished":
        write_comparison(
            folder,
            {
                **request,
                "status": "partial",
                "precision": to_dict(precision),
                "variants": [],
                "effects": [],
                "looks": found.get("looks", []),
                **measured_once(found),
                "versions": versions(),
            },
        )
    return precision


def _check_same(folder: Path, found: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(request))
    classes = class_changes(found.get("data", {}).get("classes", ()), wanted["data"]["classes"])
    if classes:
        raise RunError(
            f"the comparison in {folder} has other classes ({classes}): choose a new folder; nothing was changed."
        )
    check_unchanged(str(found.get("backbone")), wanted["backbone"], f"the comparison in {folder}")
    for key in FIXED:
        there = completed_recipe(found.get(key)) if key == "recipe" else found.get(key)
        if there != wanted[key]:
            raise RunError(f"the comparison in {folder} has another {key}: choose a new folder; nothing was changed.")
    check_same_question(folder, found, wanted)


def check_same_question(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise where analysis, metric or images are not those that the comparison was begun with.

    Raises:
        RunError: names what differs.
    """
    _check_same_analysis(folder, found.get("analysis", {}), wanted.get("analysis", {}))
    if found.get("looks") and "looks" in found.get("analysis", {}):
        _check_same_attentions(folder, found, wanted)
    metric = found.get("metric", {}).get("name", wanted["metric"]["name"])
    if metric != wanted["metric"]["name"]:
        raise RunError(
            f"the comparison in {folder} decides by {metric}: choose a new folder for {wanted['metric']['name']}."
        )
    if found.get("data", {}).get("fingerprint") != wanted["data"]["fingerprint"]:
        raise RunError(
            f"the comparison in {folder} was made with other images: choose a new folder; nothing was changed."
        )


def _check_same_analysis(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise where looks, margin or groups are not those that the comparison was begun with: they are fixed before."""
    fixed = {"group_by", "folds", "repeats"}
    if not (found.get("is_pilot") or wanted.get("is_pilot")):
        fixed |= {"margin", "looks", "tune"}
    for key in sorted(fixed):
        if found.get(key) != wanted.get(key):
            there = found.get(key, "none")
            raise RunError(
                f"the comparison in {folder} was begun with {key.replace('_', ' ')} {there}, not {wanted.get(key, 'none')}: "
                "what is fixed before the runs stays, so choose a new folder; nothing was changed."
            )


def _check_same_attentions(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise where a comparison with planned looks would get other attentions after a look: they share one error rate."""
    before, now = (
        {row["name"] for row in rows.get("requested", []) if row["role"] == "attention"} for rows in (found, wanted)
    )
    if before != now:
        raise RunError(
            f"the comparison in {folder} has been looked at with {', '.join(sorted(before))}: other attentions would change "
            "the levels of its looks, so choose a new folder; nothing was changed."
        )
