"""The content of `explanation.json`: what was found out about a trained model's attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import ADDED, to_dict
from ..costs import Latency
from ..errors import counted
from ..statistics.interval import Interval
from ..surgery.fold import PartFold
from ..surgery.gate_statistics import PartStatistics

EXPLANATION_FORMAT = 1
ALPHA = 0.05


def in_groups(images: int, groups: int | None) -> str:
    """How many images were used, and in how many groups where these are the unit.

    >>> in_groups(1400, None), in_groups(400, 40)
    ('1,400 images', '400 images in 40 groups')
    """
    return counted(images, "image") + ("" if groups is None else f" in {counted(groups, 'group')}")


@dataclass(frozen=True)
class SiteGatesRecord:
    """The gates of one site.

    Attributes:
        path, attention, depth, channels, height, width: as in `SiteGates`.
        parts: statistics of each part.
        class_similarity: (K, K) cosine between the classes' mean channel gates; None without labels or for many classes.
        leaning: class -> channels that it leans on most, with the difference to the mean over all images.
    """

    path: str
    attention: str
    depth: int
    channels: int
    height: int
    width: int
    parts: Mapping[str, PartStatistics]
    class_similarity: tuple[tuple[float | None, ...], ...] | None = None
    leaning: Mapping[str, tuple[tuple[int, float], ...]] | None = None


@dataclass(frozen=True)
class GatesRecord:
    """The gates of all sites, in the order in which the model runs them."""

    images: int
    sites: tuple[SiteGatesRecord, ...]


@dataclass(frozen=True)
class EpochGate:
    """One part of the gates of one site after an epoch."""

    mean: float
    spread: float
    distance: float
    dynamic: float


@dataclass(frozen=True)
class EpochGates:
    """The gates after an epoch: site -> part -> numbers."""

    epoch: int
    gates: Mapping[str, Mapping[str, EpochGate]]


@dataclass(frozen=True)
class Quality:
    """How a model does: accuracy, negative log likelihood in nats, expected calibration error, Brier score."""

    top1: float
    loss: float
    ece: float
    brier: float | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class CellEffect:
    """One change to the model and what it does.

    Attributes:
        where: "everywhere" or the path of a site.
        change: in words, for example "channel off".
        top1, loss, ece, brier: of the changed model. The expected calibration error only describes: it is no mean over
            images, and an interval of it would not hold what it promises.
        effect: its accuracy minus that of the intact model, image by image.
        loss_effect: the same of the negative log likelihood, in nats; positive is worse.
        brier_effect: the same of the Brier score; positive is worse.
        p_adjusted: of "accuracy", "loss" and "brier", after Holm's correction over all cells and these three.
        ece_change: in files of earlier versions.
    """

    where: str
    change: str
    top1: float
    loss: float
    ece: float
    effect: Interval
    loss_effect: Interval
    brier: float | None = field(default=None, metadata=ADDED)
    brier_effect: Interval | None = field(default=None, metadata=ADDED)
    p_adjusted: Mapping[str, float] | None = field(default=None, metadata=ADDED)
    ece_change: Interval | None = field(default=None, metadata=ADDED)

    @property
    def differs_in(self) -> tuple[str, ...]:
        """The measures whose change is more than chance would give, after the correction."""
        return tuple(name for name, p in (self.p_adjusted or {}).items() if p <= ALPHA)


@dataclass(frozen=True)
class Worth:
    """What something adds.

    Attributes:
        accuracy: a fraction.
        loss: nats by which it lowers the negative log likelihood.
        brier: by which it lowers the Brier score; of the total alone.
        p_adjusted: of "accuracy", "loss" and "brier", after Holm's correction over these; of the total alone.
    """

    accuracy: Interval
    loss: Interval
    brier: Interval | None = field(default=None, metadata=ADDED)
    p_adjusted: Mapping[str, float] | None = field(default=None, metadata=ADDED)

    @property
    def sure(self) -> frozenset[str]:
        """The measures in which it is worth something or does harm, after the correction."""
        return frozenset(name for name, p in (self.p_adjusted or {}).items() if p <= ALPHA)


@dataclass(frozen=True)
class Half:
    """The exact Shapley value of one part of the attention, at all sites together.

    Attributes:
        part: "channel", "spatial", ...
        accuracy, loss: its value, see `Worth`; those of all parts add up to the total.
        share, share_low, share_high: its part of the total accuracy with a 95 % interval; None where the total may be
            0, as there is nothing to divide then.
        loss_share: the same of the loss.
    """

    part: str
    accuracy: Interval
    loss: Interval
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None
    loss_share: float | None = None


@dataclass(frozen=True)
class SiteWorth:
    """The Shapley value of one site, all its parts together.

    Attributes:
        accuracy, loss: its value, see `Worth`, with intervals that account for images and for sampled orders.
        sampling_error: standard error, in accuracy, that comes from sampling orders alone; 0 where all orders were
            taken, None where there was one pair of orders.
    """

    path: str
    accuracy: Interval
    loss: Interval
    sampling_error: float | None = None


@dataclass(frozen=True)
class Interaction:
    """What two sites add together beyond what each adds alone, all others being on, in accuracy.

    Positive where they need each other, negative where one can replace the other.
    """

    first: str
    second: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SpeedUp:
    """Time for the cells of single sites: shared with the intact pass, and as one full evaluation for each.

    Attributes:
        ratio: of the two.
        shared_s: seconds that they took, with loading, the intact pass and finding out what can be shared.
        naive_s: seconds that a full evaluation for each takes, from full passes in between.
    """

    ratio: float
    shared_s: float
    naive_s: float


@dataclass(frozen=True)
class Decoupling:
    """A trained model's attention, taken apart.

    Attributes:
        images: number of images that the cells were measured on.
        groups: number of groups that they come in, where these are the unit of the intervals.
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
    intact: Quality
    cells: tuple[CellEffect, ...]
    total: Worth
    halves: tuple[Half, ...]
    sites: tuple[SiteWorth, ...]
    permutations: int
    subset: int
    interactions: tuple[Interaction, ...]
    speed_up: SpeedUp | None = None
    groups: int | None = field(default=None, metadata=ADDED)

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
        """JSON values."""
        return to_dict(self)


@dataclass(frozen=True)
class FoldedPart(PartFold):
    """What became of one part of one graft, and what it did before.

    Attributes:
        dynamic: how much of the gate's variation depended on the image, 0 to 1.
        swing: standard deviation of an element of the gate between images.
        change: norm of what a constant changes in the graft's output, as a fraction of the norm of that output.
    """

    dynamic: float
    swing: float
    change: float


@dataclass(frozen=True)
class Accuracy:
    """Part of the images whose most probable class is the true one."""

    top1: float


@dataclass(frozen=True)
class Latencies:
    """Latency of one image before and after folding, measured side by side."""

    before: Latency
    after: Latency


@dataclass(frozen=True)
class FoldingRecord:
    """What folding did, without the model; the attributes of `Folding`.

    Attributes:
        unlikely_loss: a loss of accuracy above this, as a fraction, is unlikely on other images; see `Folding`.
        groups: number of groups that the images come in, where these are the unit.
    """

    sites: tuple[FoldedPart, ...]
    before: Accuracy
    after: Accuracy
    effect: Interval
    largest_output_change: float | None
    latency_ms: Latencies
    tolerance: float
    images: int
    sites_in_all: int
    sites_gone: int
    unlikely_loss: float | None = field(default=None, metadata=ADDED)
    groups: int | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class MapCurve:
    """Deletion or insertion of one map.

    Attributes:
        curve: probability of the target class at each fraction of the pixels, mean over images.
        auc: area under it.
        against_random, against_centre: the area minus that of a baseline; None for baselines themselves.
    """

    curve: tuple[float, ...]
    auc: Interval
    against_random: Interval | None = None
    against_centre: Interval | None = None


@dataclass(frozen=True)
class MapRoad(Interval):
    """ROAD of one map, and minus that of the random map."""

    against_random: Interval | None = None


@dataclass(frozen=True)
class MapFaithfulness:
    """How faithful one map is; the verdict is "faithful", "not shown", "worse than random", or None for random."""

    map: str
    deletion: MapCurve
    insertion: MapCurve
    road: MapRoad
    verdict: str | None = None


@dataclass(frozen=True)
class Faithfulness:
    """Faithfulness of several maps on the same images, baselines last.

    Attributes:
        fractions: of the pixels, from 0 to 1.
        groups: number of groups that the images come in, where these are the unit.
        blur: standard deviation of the blur, in sides of the image.
        road_fractions: of the pixels that ROAD imputes.
    """

    n: int
    fractions: tuple[float, ...]
    blur: float
    road_fractions: tuple[float, ...]
    maps: tuple[MapFaithfulness, ...]
    sentence: str
    groups: int | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class MapPointing:
    """How one map points at objects; differences are None for the baseline itself."""

    map: str
    hits: Interval
    energy: Interval
    hits_against_centre: Interval | None = None
    energy_against_uniform: Interval | None = None


@dataclass(frozen=True)
class Pointing:
    """Pointing of several maps on the same images, baselines last; `left_out` images have no boxes."""

    n: int
    left_out: int
    maps: tuple[MapPointing, ...]
    groups: int | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class Prediction:
    """The most probable class of an image."""

    class_: str
    probability: float


@dataclass(frozen=True)
class ExampleFiles:
    """Names of an example's images in the folder; None for maps that there are not.

    Attributes:
        sites: path -> map of its gate, for gates that are not about 1 everywhere.
        ranges: lowest and highest value of each map, by "gate", "cam", "plain-cam" or the path of a site.
    """

    image: str
    gate: str | None = None
    cam: str | None = None
    plain_cam: str | None = None
    sites: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """An image with its predictions and maps."""

    id: str
    label: str | None
    prediction: Prediction
    plain_prediction: Prediction | None
    files: ExampleFiles


@dataclass(frozen=True)
class Saliency:
    """Maps of the model and of the plain network, measured and drawn."""

    notes: tuple[str, ...] = ()
    faithfulness: Faithfulness | None = None
    pointing: Pointing | None = None
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class ExplanationRecord:
    """The content of `explanation.json`; what was not measured is None.

    Attributes:
        status: "partial" while images are written.
        attention: of the grafts; None for a model without.
        class_counts: images of each class, where they have labels.
        groups: number of groups that the images come in; None where every image stands for itself.
        plain: which network the model is compared with, in words.
        looks: where the model looks.
        sentences: what matters, most important first.
        notes: what must be known before they are trusted.
    """

    created: str
    name: str
    attention: str | None
    classes: tuple[str, ...]
    images: int
    labelled: bool
    plain: str
    hardware: Mapping[str, Any]
    versions: Mapping[str, Any]
    status: Literal["partial", "finished"] = "finished"
    command: str | None = None
    class_counts: tuple[int, ...] | None = None
    gates: GatesRecord | None = None
    gate_history: tuple[EpochGates, ...] | None = None
    decoupling: Decoupling | None = None
    folding: FoldingRecord | None = None
    looks: Saliency | None = None
    sentences: tuple[str, ...] = ()
    groups: int | None = field(default=None, metadata=ADDED)
    notes: tuple[str, ...] = field(default=(), metadata=ADDED)
    format: int = EXPLANATION_FORMAT
    kind: Literal["explanation"] = "explanation"
