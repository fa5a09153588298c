"""What is said of an epoch, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..tasks import Metric
from .pace import clock_time


def epoch_line(
    row: Mapping[str, Any],
    *,
    epochs: int,
    metric: Metric,
    lr: float,
    left_s: float | None,
    left_for_all_s: float | None = None,
) -> str:
    """Phase, epoch, losses, the metric on validation images where there are some, rate, speed and time left.

    Args:
        row: as in `metrics.jsonl`.
        epochs: of the whole training.
        metric: the task's primary one.
        lr: the highest rate of the epoch; that in the row is of its last step, which a falling schedule ends near 0.
        left_s: seconds of this training; None where nobody knows.
        left_for_all_s: seconds of all that it is a part of.
    """
    parts = [f"epoch {row['epoch']}/{epochs} {row['phase']}", f"loss {row['train_loss']:.4g}"]
    train_score, score = row.get(f"train_{metric.name}"), row.get(f"eval_{metric.name}")
    if row.get("eval_split") == "val" and score is not None:
        parts += [f"val loss {row['eval_loss']:.4g}", f"val {metric.label} {metric.show(score)}"]
    elif train_score is not None:
        parts.append(f"train {metric.label} {metric.show(train_score)}")
    parts += [f"lr {lr:.2g}", f"{row['images_per_s']:,.0f} images/s"]
    if left_s is not None:
        parts.append(f"{clock_time(left_s)} left")
    if left_for_all_s is not None:
        parts.append(f"all {clock_time(left_for_all_s)}")
    return "  ".join(parts)
