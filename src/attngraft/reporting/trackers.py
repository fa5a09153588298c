"""Write the numbers of a comparison to an experiment tracker. Nothing is read back, and nothing rests on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..comparison.combined_record import CombinedRecord
from ..comparison.comparison_record import ComparisonRecord
from ..errors import ConfigError, nearest
from .number_format import scale_of

PROJECT = "attngraft"
MOST_TEXT = 500  # characters of a parameter: the least that any version of MLflow takes
_NAME = re.compile(r"[^\w\-. /]+")
Record = ComparisonRecord | CombinedRecord


def check_tracker(name: str | None) -> None:
    """Say before hours of training that a tracker cannot be written.

    Raises:
        ConfigError: no such tracker, or its package is not installed.
    """
    if name is not None:
        _module(name)


def log_record(name: str, folder: Path, record: Record) -> None:
    """Write settings, numbers and the page as one run of a tracker.

    Args:
        name: "wandb" or "mlflow"; where and as whom it writes is set as usual for these packages.
        folder: of the comparison; its page goes along where it is there.
        record: the content of its document.

    Raises:
        ConfigError: no such tracker, its package is not installed, or it refuses.
    """
    module, page = _module(name), folder / "report.html"
    try:
        TRACKERS[name].log(module, folder, settings(record), numbers(record), page if page.is_file() else None)
    except Exception as error:  # whatever a tracker raises must not hide that the comparison is finished
        raise ConfigError(
            f"{name} has not taken the numbers ({error}): the comparison is finished and whole in {folder}; the same command "
            "tries again."
        ) from None


def settings(record: Record) -> dict[str, str]:
    """What was compared, as short texts."""
    found: dict[str, Any] = {"baseline": record.baseline, "metric": record.metric.name, "backbone": record.backbone}
    if isinstance(record, CombinedRecord):
        found |= {"data": ", ".join(one.name for one in record.sets), "recipe": record.recipe}
        found |= {f"verdict {effect.variant}": effect.verdict for effect in record.effects}
    else:
        found |= {"data": record.data.name, "recipe": record.recipe.name if record.recipe else None}
        found |= {"seeds": ", ".join(map(str, record.seeds)), "fingerprint": record.data.fingerprint}
        found |= {f"verdict {effect.variant}": effect.verdict for effect in record.against_baseline}
    return {_plain(key): str(value)[:MOST_TEXT] for key, value in found.items() if value is not None}


def numbers(record: Record) -> dict[str, float]:
    """The effects in the metric's unit, and the scores."""
    scale, found = scale_of(record.metric.unit), {}
    if isinstance(record, CombinedRecord):
        effects: list[tuple[str, Any]] = [(e.variant, e.pooled) for e in record.effects if e.pooled is not None]
        effects += [(f"{e.variant}/{one.data}", one) for e in record.effects for one in e.effects]
    else:
        effects = [(f"{e.variant}/against {e.against}", e) for e in record.effects]
        for variant in record.variants:
            if variant.scores:
                found[_plain(f"{variant.name}/{record.metric.name}")] = sum(variant.scores) / len(variant.scores)
    for name, effect in effects:
        for end in ("mean", "low", "high"):
            found[_plain(f"{name}/{end}")] = scale * getattr(effect, end)
        if hasattr(effect, "p_adjusted"):
            found[_plain(f"{name}/p_adjusted")] = effect.p_adjusted
    return found


def _plain(name: str) -> str:
    """A name that every tracker takes.

    >>> _plain("cbam@stage:reduction=8/mean")
    'cbam-stage-reduction-8/mean'
    """
    return _NAME.sub("-", name)[:250]


def _wandb() -> ModuleType:
    import wandb

    return wandb


def _mlflow() -> ModuleType:
    import mlflow

    return mlflow


def _to_wandb(
    wandb: Any, folder: Path, config: Mapping[str, str], values: Mapping[str, float], page: Path | None
) -> None:
    run = wandb.init(project=PROJECT, name=folder.resolve().name, config=dict(config), job_type="comparison")
    run.summary.update(dict(values))
    if page is not None:
        run.log({"report": wandb.Html(page.read_text(encoding="utf-8"))})
    run.finish()


def _to_mlflow(
    mlflow: Any, folder: Path, config: Mapping[str, str], values: Mapping[str, float], page: Path | None
) -> None:
    mlflow.set_experiment(PROJECT)
    with mlflow.start_run(run_name=folder.resolve().name):
        mlflow.log_params(dict(config))
        mlflow.log_metrics(dict(values))
        if page is not None:
            mlflow.log_artifact(str(page))


@dataclass(frozen=True)
class Tracker:
    """How its package is imported, and what is called in it."""

    load: Callable[[], ModuleType]
    log: Callable[[Any, Path, Mapping[str, str], Mapping[str, float], Path | None], None]


TRACKERS: Mapping[str, Tracker] = {"wandb": Tracker(_wandb, _to_wandb), "mlflow": Tracker(_mlflow, _to_mlflow)}


def _module(name: str) -> ModuleType:
    if name not in TRACKERS:
        raise ConfigError(f"unknown tracker '{name}': {nearest(name, TRACKERS)}")
    try:
        return TRACKERS[name].load()
    except ImportError:
        raise ConfigError(
            f"--log {name} needs the package {name}, which is not installed: pip install attngraft[{name}]."
        ) from None
