"""Compare trainings of any trainer from their predictions: the same table, sentences and page, without training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import to_dict
from ..environment import versions
from ..errors import ConfigError, RunError, counted, nearest
from ..locking import Claim
from ..tasks import describe_task, find_metric
from ..timestamp import timestamp
from ..training import PREDICTIONS_FILE, DataRecord
from ..training.run_folder import is_leftover
from .analysis_plan import AnalysisPlan
from .compare import Comparison
from .comparison_folder import COMPARISON_FILE, check_same_question, is_comparison, read_comparison, write_comparison
from .conclusion import seed_notes, with_look
from .contrasts import effects
from .paired_predictions import PairedPredictions, pair_predictions
from .variants import Variant

BASELINES = ("none", "baseline", "plain")
MOST_SLUG = 80  # characters of a folder's name


def compare_predictions(
    files: str | Path | Sequence[str | Path],
    *,
    baseline: str | None = None,
    controls: Sequence[str] = (),
    metric: str | None = None,
    margin: float | None = None,
    group_by: str | None = None,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    run_dir: str | Path,
    command: str | None = None,
) -> Comparison:
    """Say what variants are worth, from predictions that any trainer has written.

    Args:
        files: CSV, NPZ or Parquet: a row for each image, seed and variant, with label, and prediction or probabilities.
        baseline: the variant that others are compared with; the one called none, baseline or plain where not given.
        controls: variants that separate attention from its side effects.
        metric: what decides, as for `compare`.
        margin: a difference that matters, as for `compare`.
        group_by: "column:NAME", "folder" or a regular expression on the images' ids; a column called group, patient,
            slide or video where not given.
        task: "classification" or "regression"; by the labels where not given.
        columns: "image", "seed", "variant", "label", "prediction" or "group" -> name of its column, where the guess
            would be another.
        run_dir: a new folder, or that of a comparison of predictions for the same images.
        command: the command line, for the record.

    Raises:
        ConfigError, DataError: files that cannot be understood or paired; names the line.
        RunError: the folder holds something else.
    """
    folder, listed = Path(run_dir).expanduser(), [files] if isinstance(files, (str, Path)) else list(files)
    if not listed:
        raise ConfigError("there are no files of predictions: name at least one.")
    paths = [Path(file) for file in listed]
    found = pair_predictions(paths, columns=columns or {}, task=task, group_by=group_by)
    variants = _variants(list(found.evaluations), baseline, controls)
    _check_pairs(found, variants)
    chosen = find_metric(found.task, metric)
    if chosen.reads_probabilities and not found.has_probabilities:
        raise ConfigError(
            f"{chosen.label} needs probabilities and the files have only predictions: choose another metric."
        )
    plan = replace(AnalysisPlan.of(chosen, margin=margin, groups=found.groups), trains=False)
    request = _request(found, variants, plan, paths)
    _open(folder, request)  # refused before anything is written
    with ExitStack() as held:
        Claim(folder, held)()
        earlier = _open(folder, request)
        document = _conclude(found, variants, plan, request, earlier, command, folder)
        _check_kept(folder, earlier, document)
        write_comparison(folder, document)
    return Comparison(folder, document)


def _variants(names: Sequence[str], baseline: str | None, controls: Sequence[str]) -> tuple[Variant, ...]:
    """The variants, the baseline first.

    Raises:
        ConfigError: no baseline, nothing to compare with it, or a control that is not there.
    """
    known = [name for name in names if name.lower() in BASELINES]
    if baseline is None and len(known) != 1:
        what = (
            f"{' and '.join(known)} could both be" if known else "none is called none, baseline or plain, so which is"
        )
        raise ConfigError(f"{what} the baseline of {', '.join(names[:12])}: name it with --baseline NAME.")
    base = known[0] if baseline is None else baseline
    for name in (base, *controls):
        if name not in names:
            raise ConfigError(f"there is no variant '{name}' among the predictions: {nearest(name, names)}")
    if len(names) < 2 or base in controls:
        raise ConfigError(f"there is nothing to compare with '{base}': expected at least one other variant.")
    others = [name for name in names if name != base]
    return (
        Variant(base, base, role="baseline"),
        *(Variant(name, name, role="control" if name in controls else "attention") for name in others),
    )


def _check_pairs(found: PairedPredictions, variants: Sequence[Variant]) -> None:
    """Note runs that have no partner; raise where no variant has one."""
    base, *others = variants
    seeds = {variant.name: set(found.evaluations[variant.name]) for variant in variants}
    if not any(seeds[base.name] & seeds[variant.name] for variant in others):
        raise ConfigError(
            f"no other variant has a seed of '{base.name}': expected the same seeds, for they make the pairs."
        )
    everything = sorted(set().union(*seeds.values()))
    for variant in variants:
        lost = ", so the other variants have no partner with this seed" if variant is base else ""
        found.left_out.extend(
            {"variant": variant.name, "seed": seed, "reason": f"no predictions in the files{lost}"}
            for seed in everything
            if seed not in seeds[variant.name]
        )


def _request(
    found: PairedPredictions, variants: Sequence[Variant], plan: AnalysisPlan, files: Sequence[Path]
) -> dict[str, Any]:
    """What is fixed with the first look."""
    described, task = plan.describe(), describe_task(found.task)
    if found.groups is not None:
        described |= {"group_by": found.grouped_by, "groups": len(np.unique(found.groups))}
    name = files[0].stem if len(files) == 1 else f"{files[0].stem} and {len(files) - 1} more"
    data = DataRecord(name, None, found.fingerprint, found.task.outputs, None, None, len(found.ids), tuple(found.notes))
    return {
        **({"task": task} if task else {}),
        "metric": plan.metric.describe(),
        **({"analysis": described} if described else {}),
        "data": to_dict(data),
        "predictions": {"files": [str(file) for file in files], "columns": found.columns},
        "seeds": sorted({seed for runs in found.evaluations.values() for seed in runs}),
        "baseline": variants[0].name,
        "requested": [{"name": v.name, "role": v.role, "slug": v.slug} for v in variants],
    }


def _open(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder says so far; nothing where it is new.

    Raises:
        RunError: it holds something else, or a comparison of other predictions.
    """
    if not is_comparison(folder):
        if folder.is_dir() and not all(is_leftover(item) for item in folder.iterdir()):
            raise RunError(f"{folder} has files but no {COMPARISON_FILE}: choose an empty or a new folder.")
        return {}
    found = read_comparison(folder)
    if "predictions" not in found or found.get("baseline") != request["baseline"]:
        raise RunError(f"the comparison in {folder} has trainings of its own or another baseline: choose a new folder.")
    check_same_question(folder, found, request)
    return found


def _check_kept(folder: Path, earlier: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Raise where a training has other predictions than those that the folder was concluded with.

    Raises:
        RunError: names the variant and the seed.
    """
    new = {
        (effect["variant"], effect["against"], seed): value
        for effect in document["effects"]
        for seed, value in zip(effect["paired_seeds"], effect["seed_effects"], strict=True)
    }
    for effect in earlier.get("effects", []):
        for seed, value in zip(effect.get("paired_seeds", []), effect.get("seed_effects", []), strict=True):
            now = new.get((effect["variant"], effect["against"], seed))
            if now is not None and not math.isclose(now, value, rel_tol=1e-9, abs_tol=1e-12):
                raise RunError(
                    f"the comparison in {folder} was made with other predictions of {effect['variant']} or "
                    f"{effect['against']} with seed {seed}: choose a new folder; nothing was changed."
                )


def _conclude(
    found: PairedPredictions,
    variants: Sequence[Variant],
    plan: AnalysisPlan,
    request: Mapping[str, Any],
    earlier: Mapping[str, Any],
    command: str | None,
    folder: Path,
) -> dict[str, Any]:
    seeds = request["seeds"]
    looks = with_look(earlier.get("looks", []), seeds)
    images = f"images like the {counted(len(found.ids), 'test image')}" + (
        ", in new groups" if plan.groups is not None else ""
    )
    scope = f"Scope: the trainings behind these files, of which nothing else is known; {images}."
    return {
        **request,
        "pretrained": False,
        "status": "finished",
        "command": command,
        "created": timestamp(),
        "variants": _rows(found, variants, plan, folder),
        "effects": effects(variants, found.evaluations, found.task, plan, {}),
        "left_out": found.left_out,
        "looks": looks,
        "notes": [scope, *seed_notes(len(seeds), looks, plan)],
        "versions": versions(),
        "samples": [],
    }


def _rows(
    found: PairedPredictions, variants: Sequence[Variant], plan: AnalysisPlan, folder: Path
) -> list[dict[str, Any]]:
    """One JSON object per variant; the predictions are kept in the folder, for its page."""
    name, rows, slugs = plan.metric.name, [], set[str]()
    for variant in variants:
        slug = variant.slug[:MOST_SLUG]
        while slug.lower() in slugs:
            slug += "-"
        slugs.add(slug.lower())
        runs = found.evaluations[variant.name]
        for seed, run in runs.items():
            run.write(folder / f"runs/{slug}/seed-{seed}" / PREDICTIONS_FILE)
        scores = [run.value(name) for run in runs.values()]
        rows.append(
            {
                "name": variant.name,
                "slug": slug,
                "role": variant.role,
                f"{name}_per_seed": scores,
                f"{name}_mean": sum(scores) / len(scores),
                "runs": [f"runs/{slug}/seed-{seed}" for seed in runs],
            }
        )
    return rows
