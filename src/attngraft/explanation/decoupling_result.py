"""Result of a decoupling: effects of ablations, shares of parts, values of sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..statistics.bootstrap import Interval
from ..statistics.effects import Effect
from .ablations import Scores


@dataclass(frozen=True)
class CellEffect:
    """One change to the model and what it does.

    Attributes:
        where: "everywhere" or the path of a site.
        change: in words, for example "channel off".
        top1, loss, ece: of the changed model.
        effect: its accuracy minus that of the intact model, image by image.
        loss_effect: the same of the negative log likelihood, in nats; positive is worse.
        ece_change: of the expected calibration error, with a paired bootstrap interval.
    """

    where: str
    change: str
    top1: float
    loss: float
    ece: float
    effect: Effect
    loss_effect: Effect
    ece_change: Interval

    def to_json(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "change": self.change,
            "top1": self.top1,
            "loss": self.loss,
            "ece": self.ece,
            "effect": _ends(self.effect),
            "loss_effect": _ends(self.loss_effect),
            "ece_change": self.ece_change.to_json(),
        }


@dataclass(frozen=True)
class Worth:
    """What something adds, in accuracy (a fraction) and in likelihood (nats by which it lowers the loss)."""

    accuracy: Effect
    loss: Effect

    def to_json(self) -> dict[str, Any]:
        return {"accuracy": _ends(self.accuracy), "loss": _ends(self.loss)}


@dataclass(frozen=True)
class Half:
    """The exact Shapley value of one part of the attention, at all sites together.

    Attributes:
        part: "channel", "spatial", ...
        worth: its value; those of all parts add up to the total.
        share: its part of the total; None where the total may be 0, as there is nothing to divide then.
        loss_share: the same of the loss.
    """

    part: str
    worth: Worth
    share: Interval | None
    loss_share: Interval | None

    def to_json(self) -> dict[str, Any]:
        share = self.share
        return {
            "part": self.part,
            **self.worth.to_json(),
            "share": share.mean if share else None,
            "share_low": share.low if share else None,
            "share_high": share.high if share else None,
            "loss_share": self.loss_share.mean if self.loss_share else None,
        }


@dataclass(frozen=True)
class SiteWorth:
    """The Shapley value of one site, all its parts together.

    Attributes:
        path: of the site.
        worth: its value, with an interval that accounts for images and for sampled orders.
        sampling_error: standard error, in accuracy, that comes from sampling orders alone; 0 where all orders were
            taken, None where there was one pair of orders.
    """

    path: str
    worth: Worth
    sampling_error: float | None

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, **self.worth.to_json(), "sampling_error": self.sampling_error}


@dataclass(frozen=True)
class Interaction:
    """What two sites add together beyond what each adds alone, all others being on, in accuracy.

    Positive where they need each other, negative where one can replace the other.
    """

    first: str
    second: str
    effect: Effect

    def to_json(self) -> dict[str, Any]:
        return {"first": self.first, "second": self.second, **_ends(self.effect)}


@dataclass(frozen=True)
class SpeedUp:
    """Time for the cells of single sites: shared with the intact pass, and as one whole evaluation for each.

    Attributes:
        shared_s: seconds that they took, with loading, the intact pass and finding out what can be shared.
        naive_s: seconds that a whole evaluation for each takes, from whole passes in between.
    """

    shared_s: float
    naive_s: float

    @property
    def ratio(self) -> float:
        return self.naive_s / self.shared_s

    def to_json(self) -> dict[str, float]:
        return {"ratio": self.ratio, "shared_s": self.shared_s, "naive_s": self.naive_s}


@dataclass(frozen=True)
class Decoupling:
    """A trained model's attention, taken apart.

    Attributes:
        images: how many images the cells were measured on.
        intact: how the model does as it is.
        cells: every change, those everywhere first.
        total: what all attention adds, as the model is trained.
        halves: how the parts share that.
        sites: how the sites share that, measured on `subset` images and `permutations` orders.
        permutations: orders of the sites, each with its reverse.
        subset: images of `sites` and `interactions`.
        interactions: of pairs of sites.
        speed_up: what sharing passes saved.
    """

    images: int
    intact: Scores
    cells: tuple[CellEffect, ...]
    total: Worth
    halves: tuple[Half, ...]
    sites: tuple[SiteWorth, ...]
    permutations: int
    subset: int
    interactions: tuple[Interaction, ...]
    speed_up: SpeedUp

    def cell(self, where: str, change: str) -> CellEffect:
        """One of the cells.

        Raises:
            KeyError: there is none.
        """
        for cell in self.cells:
            if (cell.where, cell.change) == (where, change):
                return cell
        raise KeyError(f"no cell '{change}' at '{where}'")

    def to_json(self) -> dict[str, Any]:
        """Finite numbers, or null."""
        intact = self.intact
        return {
            "images": self.images,
            "intact": {"top1": intact.top1, "loss": intact.mean_loss, "ece": intact.calibration_error},
            "cells": [cell.to_json() for cell in self.cells],
            "total": self.total.to_json(),
            "halves": [half.to_json() for half in self.halves],
            "sites": [site.to_json() for site in self.sites],
            "permutations": self.permutations,
            "subset": self.subset,
            "interactions": [pair.to_json() for pair in self.interactions],
            "speed_up": self.speed_up.to_json(),
        }


def _ends(effect: Effect) -> dict[str, float]:
    return {"mean": effect.mean, "low": effect.low, "high": effect.high}
