"""What grafting alone changes: the outputs of every grafted network beside those of the plain one, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..backbones import backbone_info
from ..config import to_dict
from ..data import evenly_spread
from ..tasks import Rows
from ..tasks.classification import same_class
from ..tasks.contract import Forward
from ..training import EvaluationContext, Progress, doing
from ..training.evaluate import in_order, over_images
from .comparison_context import ComparisonContext
from .comparison_folder import keep, read_comparison
from .comparison_record import StartRecord
from .variants import BASELINE, Variant

MOST_IMAGES = 400
MOST_NUMBERS = 2**26  # of the outputs of a network
KEY = "at_start"  # in comparison.json
Outputs = NDArray[np.float32]


def measure_start(context: ComparisonContext, variants: Sequence[Variant], seed: int, progress: Progress) -> None:
    """Compare every grafted network with the plain one before any training, and keep the outcome in `comparison.json`.

    What is kept there already is not measured again. Variants without grafts have nothing to compare.

    Args:
        context: of the comparison, whose folder is claimed.
        variants: the columns.
        seed: of all networks.
        progress: says what the time is spent on.
    """
    kept = context.world.in_main(lambda: read_comparison(context.folder).get(KEY, {}))
    missing = [v for v in variants if context.plans[v.name] is not None and v.slug not in kept]
    if not missing:
        return
    doing(progress, "comparing the networks before training")
    start = _Start.of(context, seed)
    plain = start.outputs(Variant(BASELINE, BASELINE))
    found = {v.slug: to_dict(compared(plain, start.outputs(v), head=start.head, one_answer=start.one_answer))
             for v in missing}  # fmt: skip
    context.world.in_main(lambda: keep(context.folder, KEY, found))


@dataclass(frozen=True)
class _Start:
    """How the networks are compared: on at most 400 test images, evenly spread, in eval mode and the runs' precision.

    Published weights, and runs, are compared with the head that they bring: a new one says nothing that means something
    before it is trained, and to solve it as the recipe may do takes the features of all training images, while what
    grafts change in the features shows in any head. Other networks have the head that training starts with, unsolved.

    Attributes:
        context: of the comparison.
        seed: of all networks.
        head: "own" or "new".
    """

    context: ComparisonContext
    seed: int
    head: str

    @classmethod
    def of(cls, context: ComparisonContext, seed: int) -> _Start:
        info = backbone_info(context.source.fresh(None, seed)) if context.source.pretrained else None
        return cls(context, seed, "own" if info is not None and info.num_classes > 1 else "new")

    @property
    def one_answer(self) -> bool:
        """Whether the highest logit is the prediction; boxes are compared number by number."""
        if self.context.task.reads == "detection":
            return False
        return self.head == "own" or self.context.task.reads in ("classification", "segmentation")

    @property
    def _most(self) -> int:
        """Images whose outputs are kept; fewer where there is one for every pixel."""
        if self.context.task.reads != "segmentation":
            return MOST_IMAGES
        height, width = self.context.preprocessing.size
        return max(1, min(MOST_IMAGES, MOST_NUMBERS // (height * width * len(self.context.task.outputs))))

    def outputs(self, variant: Variant) -> Outputs:
        """(N, K) main output of a network before any training."""
        context, names = self.context, None if self.head == "own" else self.context.dataset.classes
        model = context.source.build(names, variant, self.seed, plan=context.plans[variant.name])
        model = model.to(context.device).to(memory_format=context.precision.memory_format)  # type: ignore[call-overload]
        images = context.data_of(self.seed).test
        images = images.select(evenly_spread(len(images), self._most))
        chosen = EvaluationContext(
            context.task, context.preprocessing, context.precision, context.device, world=context.world
        )
        return in_order(over_images(model, images, chosen, _outputs), len(images))["outputs"]


def _outputs(forward: Forward, part: Tensor, _: Any) -> Rows:
    return {"outputs": forward(part).float().cpu().numpy()}


def compared(plain: Outputs, grafted: Outputs, *, head: str, one_answer: bool) -> StartRecord:
    """What grafts change in the outputs (N, K, ...) of a network.

    Args:
        plain: without them.
        grafted: with them.
        head: for the record.
        one_answer: whether the highest of the K is the prediction; otherwise all of them are.
    """
    same = same_class(plain, grafted) if one_answer else (plain == grafted).reshape(len(plain), -1).all(1)
    spread, change = float(np.ptp(plain)), float(np.abs(plain - grafted).max())
    part = change / spread if spread > 0 else float("nan")
    return StartRecord(
        images=len(plain),
        kept=int(same.sum()),
        equal=bool(np.array_equal(plain, grafted)),
        largest_change=part if np.isfinite(part) else None,
        head=head,
    )
