"""Regression: one or several numbers per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, DataError
from .contract import (
    TASKS,
    Array,
    Capability,
    Criterion,
    Floats,
    Forward,
    LossOptions,
    Metric,
    OutputLoss,
    Rows,
    check_width,
    left_out_metric,
    mean_metric,
    mean_of_views,
)
from .linear_heads import Folds, LinearHead, ridge_head

UNBOUNDED = (0.0, np.inf)


@dataclass(frozen=True)
class Regression:
    """T numbers per image. The network learns them standardised; everything that is reported is in their own unit.

    Rows: `predictions` (N, T) float32 and `targets` (N, T) float64. Metrics of several targets are means over them.

    Attributes:
        outputs: names of the targets.
        mean: (T,) of the training targets; 0 where not known.
        std: (T,) their standard deviation; 1 where not known.
    """

    outputs: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    name: ClassVar[str] = "regression"
    reads: ClassVar[str] = "regression"
    supports: ClassVar[frozenset[Capability]] = frozenset({"solve-head", "tta"})

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        less = {"unit": "", "higher_is_better": False, "bounds": UNBOUNDED}
        found = [
            mean_metric("mae", "MAE", lambda rows: _errors(rows).mean(1), **less),
            left_out_metric("rmse", "RMSE", rmse, rmse_without, **less),
            left_out_metric("r2", "R²", r2, r2_without, unit="", bounds=(-np.inf, 1.0)),
        ]
        if len(self.outputs) > 1:
            found += [_mae_of(target, name, less) for target, name in enumerate(self.outputs)]
        return {metric.name: metric for metric in found}

    def fitted(self, targets: Any) -> Regression:
        mean, std = targets.values.mean(0), targets.values.std(0)
        constant = [name for name, spread in zip(self.outputs, std, strict=True) if not spread > 0]
        if constant:
            raise DataError(f"the target '{constant[0]}' is the same for all training images: leave that column out.")
        return replace(self, mean=tuple(map(float, mean)), std=tuple(map(float, std)))

    def check(self, outputs: Tensor) -> None:
        check_width(outputs, self.outputs, "targets")

    def criterion(self, targets: Any, options: LossOptions) -> Criterion:
        losses = {"auto": F.smooth_l1_loss, "smooth-l1": F.smooth_l1_loss, "l2": F.mse_loss}
        if options.loss not in losses:
            raise ConfigError(f"loss is '{options.loss}' for regression: expected smooth-l1 or l2.")

        def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
            mean, std = (torch.tensor(values).to(wanted) for values in (self._mean, self._std))
            return losses[options.loss](outputs, (wanted - mean) / std)

        def scores(outputs: Tensor, wanted: Tensor) -> Tensor:
            return (self._restored(outputs) - wanted).abs().mean(1)

        return OutputLoss(loss, scores)

    def rows(self, model: Forward, inputs: Tensor) -> dict[str, Array]:
        return {"predictions": self._restored(model(inputs).float()).cpu().numpy()}

    def averaged(self, views: Sequence[Rows]) -> dict[str, Array]:
        return {"predictions": mean_of_views(views, "predictions")}

    def target_rows(self, targets: Any) -> dict[str, Array]:
        return {"targets": np.asarray(targets.values, dtype=np.float64)}

    def loss_of(self, rows: Rows) -> float:
        """Smooth L1 in standard deviations of the training targets, whatever loss was trained with."""
        error = np.abs(rows["predictions"] - rows["targets"]) / np.asarray(self._std)
        return float(np.where(error < 1, error**2 / 2, error - 0.5).mean())

    def summary(self, rows: Rows) -> dict[str, Any]:
        errors, determined = _errors(rows), r2_per_target(rows)
        per_output = [
            {"name": name, "mae": float(e.mean()), "rmse": float(np.sqrt(np.square(e).mean())), "r2": float(d)}
            for name, e, d in zip(self.outputs, errors.T, determined, strict=True)
        ]
        values = {name: self.metrics[name].value(rows) for name in ("mae", "rmse", "r2")}
        return {"images": len(errors), **values, "loss": self.loss_of(rows), "per_output": per_output}

    def tuned(self, validation: Callable[[], Rows] | None) -> Regression:
        return self

    def readable(self, rows: Rows, top: int) -> list[dict[str, Any]]:
        return [
            {name: float(f"{value:.6g}") for name, value in zip(self.outputs, row, strict=True)}
            for row in rows["predictions"]
        ]

    def caption(self, rows: Rows, position: int) -> tuple[str, str]:
        return self._shown(rows["predictions"][position]), self._shown(rows["targets"][position])

    def groups(self, rows: Rows) -> Array | None:
        return None

    def random_targets(self, batch_size: int) -> Tensor:
        spread, mean = torch.tensor(self._std), torch.tensor(self._mean)
        return torch.randn(batch_size, len(self.outputs)) * spread + mean

    def solve_head(self, features: Tensor, targets: Any, left_out: Folds, options: LossOptions) -> LinearHead:
        standardised = (targets.values - np.asarray(self._mean)) / np.asarray(self._std)
        return ridge_head(features, torch.from_numpy(standardised))

    def _shown(self, values: Array) -> str:
        if len(self.outputs) == 1:
            return f"{values[0]:.4g}"
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.outputs, values, strict=True))

    @property
    def _mean(self) -> tuple[float, ...]:
        return self.mean or (0.0,) * len(self.outputs)

    @property
    def _std(self) -> tuple[float, ...]:
        return self.std or (1.0,) * len(self.outputs)

    def _restored(self, outputs: Tensor) -> Tensor:
        """Outputs in the targets' own units."""
        mean, std = (torch.tensor(values).to(outputs) for values in (self._mean, self._std))
        return outputs * std + mean


TASKS.register("regression", Regression)


def rmse(rows: Rows) -> float:
    return float(np.sqrt(np.square(_errors(rows)).mean(0)).mean())


def rmse_without(rows: Rows) -> Floats:
    squares = np.square(_errors(rows))
    with np.errstate(all="ignore"):
        return np.asarray(np.sqrt((squares.sum(0) - squares).clip(0) / (len(squares) - 1)).mean(1))


def r2(rows: Rows) -> float:
    """Part of the variance of the test targets that is predicted; below 0 where their mean would predict better."""
    return float(r2_per_target(rows).mean())


def r2_per_target(rows: Rows) -> Floats:
    """(T,), NaN where a target is the same in all test images."""
    targets = rows["targets"]
    with np.errstate(all="ignore"):
        found = 1 - np.square(_errors(rows)).sum(0) / np.square(targets - targets.mean(0)).sum(0)
    return np.where(np.isfinite(found), found, np.nan)


def r2_without(rows: Rows) -> Floats:
    targets, squares, n = rows["targets"], np.square(_errors(rows)), len(rows["targets"])
    centred = np.square(targets - targets.mean(0))
    with np.errstate(all="ignore"):
        rest = centred.sum(0) - centred * n / (n - 1)  # sum of squares about the mean of the others
        found = 1 - (squares.sum(0) - squares) / rest
    return np.asarray(found.mean(1))


def _errors(rows: Rows) -> Floats:
    """(N, T) absolute errors."""
    return np.abs(rows["predictions"].astype(np.float64) - rows["targets"])


def _mae_of(target: int, name: str, fields: Mapping[str, Any]) -> Metric:
    return mean_metric(f"mae:{name}", f"MAE of {name}", lambda rows: _errors(rows)[:, target], **fields)
