"""Adapt the grafts' learning rate and gate strength to the trend of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..attention import Attention, create_attention
from ..attention.cbam_channel import CBAMChannel
from ..errors import ConfigError
from ..settings.recipe import Dynamic
from ..surgery import graft_plan, grafts

WINDOW = 4  # epochs that a trend is taken from: the fewest that tell a bent curve from a straight one with noise
LEAST = 3  # epochs in the phase before there is a trend: a line through two has no residuals
CLEAR = 2.0  # standard errors from which a slope counts
FASTER, SLOWER = 1.1, 0.5  # of the rate: rise slowly and fall fast (Vogl et al. 1988; Battiti 1989)
SHARPER = 1.2  # of the strength: three steps and the window's waits take a phase of ten epochs from 1 to its bound
RATES = (0.1, 3.0)
STRENGTHS = (0.5, 2.0)


@dataclass(frozen=True)
class Pace:
    """How the grafts are trained at present, and what the next change rests on.

    Attributes:
        rate: factor on the learning rate of the grafts in this phase.
        strength: by what the logits of all gates were multiplied since the first epoch; the weights hold it already.
        losses: of the last epochs of the phase since the last change.
    """

    rate: float = 1.0
    strength: float = 1.0
    losses: tuple[float, ...] = ()

    @property
    def trend(self) -> float | None:
        """Slope of the losses in standard errors, below 0 where they fall; None where they are too few."""
        return trend(self.losses)

    def seen(self, loss: float) -> Pace:
        """After an epoch with this loss; a loss that is not finite says nothing."""
        return replace(self, losses=(*self.losses, loss)[-WINDOW:]) if math.isfinite(loss) else self

    def adjusted(self, kind: Dynamic) -> Pace:
        """What the trend makes of the pace.

        While the loss falls clearly, the rate rises a little. Where it rises clearly, steps are too long or gates
        follow the noise: the rate is halved and the gates are softened. Where it does neither, training has settled as
        far as these steps let it: the rate is halved, and the gates are sharpened, which moves them off the flat part.
        After a change for the worse the window begins anew, so that each of them is judged by what came after it.

        Args:
            kind: what may be changed.
        """
        found = self.trend
        if found is None:
            return self
        if found <= -CLEAR:
            return replace(self, rate=self._rate(kind, FASTER))
        strength = self._strength(kind, 1 / SHARPER if found >= CLEAR else SHARPER)
        return Pace(self._rate(kind, SLOWER), strength)

    def in_next_phase(self) -> Pace:
        """Another phase has other rates and another loss to begin with; the strength is in the weights."""
        return Pace(strength=self.strength)

    def to_row(self) -> dict[str, float | None]:
        """For the row of the epoch: what was in force in it, and the trend after it."""
        found = self.trend
        return {"rate": self.rate, "strength": self.strength, "trend": None if found is None else round(found, 3)}

    def _rate(self, kind: Dynamic, factor: float) -> float:
        return _within(self.rate * factor, RATES) if kind in ("rate", "both") else self.rate

    def _strength(self, kind: Dynamic, factor: float) -> float:
        return _within(self.strength * factor, STRENGTHS) if kind in ("strength", "both") else self.strength


def trend(losses: Sequence[float]) -> float | None:
    """Least-squares slope of a few numbers over its standard error, at most 100 either way; None for fewer than 3.

    >>> trend([3.0, 2.0, 1.0])
    -100.0
    >>> trend([1.0, 1.0, 1.0, 1.0])
    0.0
    """
    count = len(losses)
    if count < LEAST:
        return None
    steps = np.arange(count) - (count - 1) / 2
    values = np.asarray(losses, dtype=np.float64) - np.mean(losses)
    slope = float(steps @ values / (steps @ steps))
    noise = values - slope * steps
    error = math.sqrt(float(noise @ noise) / (count - 2) / float(steps @ steps))
    if abs(slope) >= 100 * error:
        return math.copysign(100.0, slope) if slope else 0.0
    return slope / error


def possible(kind: Dynamic, model: nn.Module) -> Dynamic:
    """What of it this model can do: nothing without grafts, and no strength where no graft has logits."""
    if not grafts(model):
        return "off"
    if kind == "rate" or strengthen_(model, 1.0):
        return kind
    return "rate" if kind == "both" else "off"


@torch.no_grad()
def strengthen_(model: nn.Module, factor: float) -> bool:
    """Multiply the logits of all gates in a model, in place: their temperature is divided by the factor.

    The weights that the logits are linear in are scaled, so nothing that runs, saves or folds the model knows of it.
    Where one part of an attention sees what another has weighed, its logits are scaled for what it then sees. A learned
    blend with 1 is scaled likewise.

    The optimiser's moments stay as they are. The weights are moved to other values of the same coordinates, as by a
    step, so past gradients keep their meaning; a change of coordinates, which would scale them, it is not.

    Args:
        model: with live grafts.
        factor: above 1 for more decided gates, below 1 for gates closer to their middle; 1 changes no bit.

    Returns:
        False where no graft has logits, as is so for the controls.

    Raises:
        ConfigError: the factor is not above 0.
    """
    if not 0 < factor < math.inf:
        raise ConfigError(f"the factor of the gates' strength is {factor}: expected more than 0.")
    plan, found = graft_plan(model), False
    if plan is None:
        return False
    for path, attention in grafts(model).items():
        chosen = plan.at(path)
        parameters, degree = logit_parameters(attention, chosen.attention, chosen.options)
        for parameter in parameters if factor != 1 else ():
            parameter.mul_(factor ** (1 / degree))
        found = found or bool(parameters)
    return found


def logit_parameters(
    attention: Attention, name: str, options: Mapping[str, Any]
) -> tuple[tuple[nn.Parameter, ...], int]:
    """The parameters whose scale scales the logits of the gates, and with which power.

    They are those that init="identity" sets to 0, as a new attention of the same kind tells: layers in which all is 0,
    and parameters of the attention itself. So attentions need not know of this experiment.

    Args:
        attention: of any initialisation.
        name: of the attention in the registry.
        options: that it was created with.
    """
    if attention.parts == ("offset",):  # what is only added is no gate
        return (), 1
    with torch.random.fork_rng(devices=[]):
        fresh = create_attention(name, attention.channels, init="identity", **options)
    zeroed: set[str] = set()
    for path, module in fresh.named_modules():
        empty = {key: not parameter.any() for key, parameter in module.named_parameters(path, recurse=False)}
        if module is fresh or all(empty.values()):
            zeroed |= {key for key, is_empty in empty.items() if is_empty}
    found = tuple(parameter for key, parameter in attention.named_parameters() if key in zeroed)
    if not found and isinstance(attention, CBAMChannel) and attention.combine == "product":
        return tuple(attention.mlp.fc2.parameters()), len(attention.poolings)  # its outputs are multiplied
    return found, 1


def _within(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])
