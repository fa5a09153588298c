"""The folder of a comparison: what was asked for, and whether it may be continued."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import Preprocessing, from_dict, to_dict
from ..data import Dataset
from ..errors import RunError
from ..files import read_json, write_json
from ..training import PREDICTIONS_FILE, Precision, Settings, choose_precision, describe_data, parse_precision
from ..training.recipe import completed_recipe
from .variants import BASELINE, Variant, again, parse_variant

COMPARISON_FILE = "comparison.json"
COMPARISON_FORMAT = 1
AGAIN_SLUG = again().slug


def describe_request(
    backbone: str,
    pretrained: bool,
    settings: Settings,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    dataset: Dataset,
    preprocessing: Preprocessing,
) -> dict[str, Any]:
    """What was asked for; a folder can be continued only with the same, or with more seeds and variants."""
    return {
        "format": COMPARISON_FORMAT,
        "kind": "comparison",
        "data": describe_data(dataset),
        "backbone": backbone,
        "pretrained": pretrained,
        "recipe": to_dict(settings.recipe),
        "preprocessing": to_dict(preprocessing),
        "seeds": list(seeds),
        "baseline": BASELINE,
        "requested": [{"name": v.name, "role": v.role, "slug": v.slug} for v in variants],
    }


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


def with_earlier_seeds(folder: Path, seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds that the folder was concluded with, and the new ones: none is left out again either."""
    looks = _earlier(folder).get("looks") or [[]]
    return tuple(dict.fromkeys([*looks[-1], *seeds]))


def _earlier(folder: Path) -> dict[str, Any]:
    """What the folder says so far; nothing where it is new. Whether it may be continued is checked on opening."""
    path = folder / COMPARISON_FILE
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


FIXED = ("backbone", "pretrained", "recipe", "preprocessing")


def open_comparison(
    folder: Path,
    request: Mapping[str, Any],
    settings: Settings,
    template: nn.Module,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Precision:
    """Begin the comparison or come back to it; the precision that all its runs use is returned."""
    path = folder / COMPARISON_FILE
    fixed = parse_precision(settings.machine.precision)
    if path.is_file():
        found = read_json(path)
        _check_same(folder, found, request)
        precision = from_dict(Precision, found["precision"], where="precision")
        if fixed is not None and fixed != precision:
            raise RunError(f"the comparison in {folder} was begun with precision {precision}: choose a new folder.")
    else:
        if folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"{folder} has files but no {COMPARISON_FILE}: choose an empty or a new folder.")
        batch_size = settings.recipe.batch_size
        precision = fixed or choose_precision(
            template, image_size=preprocessing.image_size, batch_size=batch_size, device=device
        )
        found = {}
    if found.get("status") != "finished":
        write_json(
            path,
            {
                **request,
                "status": "partial",
                "precision": to_dict(precision),
                "variants": [],
                "effects": [],
                "looks": found.get("looks", []),
            },
        )
    return precision


def _check_same(folder: Path, found: Any, request: Mapping[str, Any]) -> None:
    if not isinstance(found, dict) or found.get("kind") != "comparison":
        raise RunError(f"{folder / COMPARISON_FILE} is not a comparison: choose another folder.")
    if found.get("format") != COMPARISON_FORMAT:
        raise RunError(
            f"{folder} has format {found.get('format')!r}, this version reads {COMPARISON_FORMAT}: update attngraft."
        )
    wanted = json.loads(json.dumps(request))
    for key in FIXED:
        there = completed_recipe(found.get(key)) if key == "recipe" else found.get(key)
        if there != wanted[key]:
            raise RunError(f"the comparison in {folder} has another {key}: choose a new folder; nothing was changed.")
    if found.get("data", {}).get("fingerprint") != wanted["data"]["fingerprint"]:
        raise RunError(
            f"the comparison in {folder} was made with other images: choose a new folder; nothing was changed."
        )
