"""What a fit asks for, so that the same call on a finished run need not read its images again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..answers import Question
from ..backbones import backbone_info
from ..config import Preprocessing, to_dict
from ..settings import Settings
from ..surgery import graft_plan


def question_of(
    model: nn.Module,
    data: Any,
    folder: Path,
    settings: Settings,
    preprocessing: Preprocessing,
    *,
    seed: int,
    variant: str | None,
) -> Question | None:
    """The question of a fit; None for data in Python, and where what is read cannot be told without opening them."""
    if not isinstance(data, (str, Path)):
        return None
    info, plan = backbone_info(model), graft_plan(model)
    return Question.about(
        *("ag.fit", folder, [data]),
        settings=to_dict(settings),
        preprocessing=to_dict(preprocessing),
        seed=seed,
        variant=variant,
        backbone=info.spec if info else type(model).__qualname__,
        weights=info.weights if info else None,
        plan=plan.to_dict() if plan else None,
        shapes={name: list(tensor.shape) for name, tensor in model.state_dict().items()},
    )
