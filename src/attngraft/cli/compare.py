"""attngraft compare: with and without attention, honestly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from ..settings import USUAL_RECIPE
from . import options
from .again import keep_answer, question, say_again
from .combine import check_log, show_combination
from .options import option
from .output import command_line, names, print_json
from .printout import Printout

if TYPE_CHECKING:
    from ..answers import Question
    from ..comparison import Comparison
    from ..comparison.evidence import Regime

WITH_PREDICTIONS = ("task", "group_by")  # the settings that mean something where nothing is trained


@options.takes(*options.TRAINING, assignments=options.SETTINGS)
def run(
    settings: dict[str, Any],
    data: options.DataSets = None,
    backbone: options.MaybeBackbone = None,
    attention: Annotated[
        str | None,
        option(
            "Variants, comma-separated: NAME@WHERE:option=value,...; none compares the backbone with itself.  "
            "[default: cbam]",
            "VARIANTS",
        ),
    ] = None,
    controls: Annotated[
        str,
        option("Controls, comma-separated: static, capacity, larger, longer; or variants of the predictions.", "NAMES"),
    ] = "",
    seeds: Annotated[str | None, option("Number of seeds, or the seeds: 3, or 0,1,7.  [default: 3]", "SEEDS")] = None,
    recipe: options.RecipeName = USUAL_RECIPE,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What decides: top1, balanced-accuracy, macro-f1, auroc, sensitivity@specificity, quadratic-kappa, "
            "top5, nll or brier; map, macro-f1 or micro-f1 for several labels; mae, rmse or r2 for numbers.  "
            "[default: top1, map or mae]",
        ),
    ] = None,
    margin: Annotated[
        float | None,
        option(
            "A difference that matters, in points or the metric's unit: also say as good as, no worse or worse.", "SIZE"
        ),
    ] = None,
    looks: Annotated[
        str | None,
        option(
            "Numbers of seeds after which to look, or auto for 5,8,12: train on until settled or futile, with one "
            "error rate over all looks.",
            "COUNTS",
        ),
    ] = None,
    tune: Annotated[
        int, option("Trials of learning rates that every variant gets on validation images before the seeds.", "N")
    ] = 0,
    robustness: Annotated[
        bool, options.switch("--robustness", "Also compare under eight corruptions of the test images.")
    ] = False,
    folds: Annotated[
        int, option("Cross-validate in so many folds instead of seeds, where a test set would be too small.", "K")
    ] = 0,
    repeats: Annotated[int, option("Part the images into folds so many times.", "R")] = 1,
    predictions: Annotated[
        list[Path] | None,
        option(
            "Compare other trainings, from CSV, NPZ or Parquet files: image, seed, variant, label, and prediction or "
            "probabilities. Nothing is trained.",
            "FILE...",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        option("The variant of the predictions to compare with.  [default: none, baseline or plain]", "NAME"),
    ] = None,
    columns: Annotated[
        str, option("Columns of the predictions, where the guess is wrong: image=NAME,seed=NAME,...", "ROLE=NAME,...")
    ] = "",
    run_dir: Annotated[
        Path | None,
        option(
            "Folder of the comparison; the same command again continues it.  [default: runs/compare-DATA-BACKBONE]",
            "FOLDER",
            *options.OUT,
        ),
    ] = None,
    at_once: Annotated[
        int, option("Trainings at a time, one thread each: the number of cores, for small networks.", "N")
    ] = 1,
    pretrained: options.Pretrained = None,
    weights: options.Weights = None,
    log: options.Log = None,
    as_json: options.Json = False,
) -> None:
    """Train with and without attention and say what the difference is worth.

    Every variant is trained with the same seeds and the same recipe. Several data sets are compared one after the other
    and then combined.
    """
    check_log(log)
    if predictions:
        trained: dict[str, Any] = {
            "backbone": backbone,
            "attention": attention,
            "seeds": seeds,
            "looks": looks,
            "weights": weights,
        }
        trained |= {"pretrained": pretrained, "tune": tune or None, "robustness": robustness or None}
        trained |= {"folds": folds or None, "recipe": None if recipe == USUAL_RECIPE else recipe}
        _refuse({**trained, **settings})
        chosen = {name: settings.get(name) for name in WITH_PREDICTIONS}
        fixed = {"baseline": baseline, "metric": metric, "margin": margin, "run_dir": run_dir, **chosen}
        _show(_compared_predictions([*predictions, *map(Path, data or ())], controls, columns, fixed), as_json, log)
        return
    if not data or backbone is None:
        what = "DATA" if not data else "--backbone"
        raise ConfigError(f"there is no {what}: give DATA and --backbone to train, or --predictions FILE... to read.")
    if baseline is not None or columns:
        raise ConfigError("--baseline and --columns are for --predictions: leave them out.")
    if looks and seeds is not None:
        raise ConfigError("--looks says how many seeds there are: leave out --seeds.")
    if folds and seeds is not None:
        raise ConfigError("--folds takes the place of --seeds: leave out the one or the other.")
    folder = run_dir or usual_folder("-".join(map(_slug, data)) if data[1:] else data[0], backbone)
    said: dict[str, Any] = {
        "backbone": backbone,
        "metric": metric,
        "margin": margin,
        "looks": looks,
        "tune": tune,
        "robustness": robustness,
        "folds": folds,
        "repeats": repeats,
        "pretrained": pretrained,
        "weights": weights,
    }
    variants: dict[str, Any] = {"attention": attention or "cbam", "controls": controls, "seeds": seeds or "3"}
    before = question("compare", folder, data, settings, recipe, **said, **variants)
    if log is None and say_again(before, as_json):
        return
    from ..comparison import compare, compare_each, split_variants
    from ..training import join_world

    asked = said | dict(
        attentions=split_variants(variants["attention"]),
        controls=split_variants(controls),
        seeds=_seeds(variants["seeds"]),
        recipe=recipe,
        run_dir=folder,
        at_once=at_once,
        command=command_line(),
        **settings,
    )
    if len(data) > 1:
        found = compare_each(data, **asked)
        if join_world().is_main:
            show_combination(found, as_json, log, before)
        return
    result = compare(data[0], **asked)
    if join_world().is_main:
        _show(result, as_json, log, before)


def _refuse(given: dict[str, Any]) -> None:
    """Raise where an option was given that only a training can follow."""
    idle = [name for name, value in given.items() if value is not None and name not in WITH_PREDICTIONS]
    idle = [f"--{name.replace('_', '-')}" for name in idle]
    if idle:
        raise ConfigError(f"with --predictions nothing is trained: leave out {', '.join(idle)}.")


def _compared_predictions(files: list[Path], controls: str, columns: str, asked: dict[str, Any]) -> Comparison:
    from ..comparison import compare_predictions

    pairs = [part.partition("=") for part in names(columns)] if columns else []
    if not all(role and sign and name for role, sign, name in pairs):
        raise ConfigError(f"--columns is '{columns}': expected ROLE=NAME,..., for example image=fname,seed=trial.")
    asked["run_dir"] = asked["run_dir"] or Path("runs") / f"compare-predictions-{_slug(files[0].stem)}"
    return compare_predictions(
        files,
        controls=names(controls) if controls else (),
        columns={role.strip(): name.strip() for role, _, name in pairs},
        command=command_line(),
        **asked,
    )


def _show(result: Comparison, as_json: bool, log: str | None, asked: Question | None = None) -> None:
    """Write the page, and print table, notes and sentences, which are the answer to the same question again."""
    from ..reporting import log_report, write_report

    page = write_report(result.run_dir)
    shown = _printout(result)
    shown.say(f"report: {page}")
    keep_answer(asked, shown, "comparison.json")
    if as_json:
        print_json(json.loads(result.to_json()))
    else:
        shown.show()
    if log is not None:
        log_report(result.run_dir, log)


def _printout(result: Comparison) -> Printout:
    from ..reporting import comparison_table, data_notes

    shown = Printout()
    shown.table(comparison_table(result.document))
    shown.notes(data_notes(result.document["data"]))
    for run in result.document.get("left_out", []) if "predictions" in result.document else ():
        shown.say(f"left out: {run['variant']}, seed {run['seed']}: {run['reason']}", wrap=True)
    shown.say(result, wrap=True, style="bold")
    regime = _regime(result.document)
    if regime is not None:
        shown.say(regime, wrap=True)
    return shown


def _regime(comparison: Mapping[str, Any]) -> Regime | None:
    """What attention was worth elsewhere, in trainings like these."""
    from ..comparison import evidence_for

    plain = comparison["variants"][0].get("parameters")
    if comparison["metric"]["name"] != "top1" or plain is None:
        return None
    return evidence_for(plain, pretrained=comparison["pretrained"])


def _seeds(text: str) -> int | list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(
            f"'{text}': expected a number such as 3, or a list such as 0,1,7.", param_hint="--seeds"
        )
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else numbers


def usual_folder(data: str, backbone: str) -> Path:
    """The folder of a comparison where none is named."""
    return Path("runs") / f"compare-{_slug(data)}-{_slug(backbone)}"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in Path(text).name or text).strip("-")
