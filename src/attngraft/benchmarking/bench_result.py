"""Results of a benchmark: frozen dataclasses, to and from JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import from_dict, to_dict
from .clock import Spread

BENCH_FILE = "bench.json"
BENCH_FORMAT = 1
OURS = "attngraft"
PLAIN = "plain"

Direction = Literal["forward", "forward+backward"]
Mode = Literal["training step", "inference"]


@dataclass(frozen=True)
class ModuleEntry:
    """One competitor on one feature map.

    Attributes:
        name: "attngraft", "timm", "torch.compile" (of timm's module), "reference" or "traffic limit".
        time_ms: milliseconds per call; None where it could not be measured.
        speedup: its time divided by attngraft's, within each round: above 1, attngraft is faster.
        reason: why it could not be measured.
    """

    name: str
    time_ms: Spread | None = None
    speedup: Spread | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ModuleRow:
    """One attention on one feature map.

    Attributes:
        attention: its name.
        direction: "forward" (eval mode, no gradients) or "forward+backward" (train mode).
        dtype, layout: of the feature map.
        shape: (B, C, H, W).
        entries: attngraft first, the traffic limit last.
        over_limit: attngraft's time divided by the traffic limit, within each round.
        copy_share: the reciprocal, the part of the bandwidth of a copy that attngraft reaches.
        limit_copies: the traffic limit in copies of the feature map.
        copy_gb_per_s: bytes that a copy of the feature map reads and writes per second, in 1e9.
    """

    attention: str
    direction: Direction
    dtype: str
    layout: str
    shape: tuple[int, int, int, int]
    entries: tuple[ModuleEntry, ...]
    over_limit: Spread
    copy_share: Spread
    limit_copies: float
    copy_gb_per_s: float

    @property
    def case(self) -> str:
        """What was measured, in words."""
        return f"{self.attention} {self.direction}, {'x'.join(map(str, self.shape[1:]))}, {self.dtype}"

    def entry(self, name: str) -> ModuleEntry:
        """One competitor; empty where the row has none of that name."""
        return next((entry for entry in self.entries if entry.name == name), ModuleEntry(name))


@dataclass(frozen=True)
class MeanRatio:
    """Geometric mean over feature maps of median ratios.

    Attributes:
        name: the competitor.
        speedup: mean of its time divided by attngraft's.
        shapes: how many feature maps are in the mean.
    """

    name: str
    speedup: float
    shapes: int


@dataclass(frozen=True)
class ModuleSummary:
    """One attention over all feature maps: geometric means of the medians."""

    attention: str
    direction: Direction
    dtype: str
    layout: str
    means: tuple[MeanRatio, ...]
    over_limit: float
    copy_share: float


@dataclass(frozen=True)
class ModelEntry:
    """One network.

    Attributes:
        name: "plain", "attngraft" or "timm".
        time_ms: milliseconds per batch; None where it could not be measured.
        over_plain: its time divided by the plain network's, within each round.
        speedup: its time divided by attngraft's, within each round.
        images_per_s: from the median.
        reason: why it could not be measured.
    """

    name: str
    time_ms: Spread | None = None
    over_plain: Spread | None = None
    speedup: Spread | None = None
    images_per_s: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ModelRow:
    """One network plain, grafted, and with timm's own attention at the same sites.

    Attributes:
        backbone, attention: their names.
        dtype: "fp32", or "bf16" for autocast with weights in fp32.
        layout: of images and weights.
        batch_size, image_size: of the input.
        mode: "training step" (forward, loss, backward, optimiser) or "inference" (eval mode, no gradients).
        sites: how many attentions.
        entries: plain, attngraft, timm.
    """

    backbone: str
    attention: str
    dtype: str
    layout: str
    batch_size: int
    image_size: int
    mode: Mode
    sites: int
    entries: tuple[ModelEntry, ...]

    @property
    def case(self) -> str:
        """What was measured, in words."""
        return f"{self.backbone} {self.attention}, {self.mode}, {self.dtype}"

    def entry(self, name: str) -> ModelEntry:
        """One network; empty where the row has none of that name."""
        return next((entry for entry in self.entries if entry.name == name), ModelEntry(name))


@dataclass(frozen=True)
class LoopRow:
    """What training costs besides the model.

    Attributes:
        images: what the images are, for people.
        backbone: the network.
        dtype, layout: as for `ModelRow`.
        batch_size, image_size: of the input.
        workers: processes that prepare images.
        steps: optimiser steps per sample.
        bare: images/s of training steps on one batch that is in memory.
        loader: images/s of reading, augmenting and normalising alone.
        fit: images/s of `fit`.
        over_bare: time of `fit` divided by that of bare steps, within each round.
    """

    images: str
    backbone: str
    dtype: str
    layout: str
    batch_size: int
    image_size: int
    workers: int
    steps: int
    bare: Spread
    loader: Spread
    fit: Spread
    over_bare: Spread

    @property
    def case(self) -> str:
        """What was measured, in words."""
        return f"{self.backbone}, {self.images}, {self.image_size} px, {self.dtype}"


@dataclass(frozen=True)
class MemoryEntry:
    """Memory of one training step of one network.

    Attributes:
        name: "plain", "attngraft" or "timm".
        peak_bytes: most that was in use at a time: weights, optimiser, activations, gradients.
        saved_bytes: what autograd keeps from the forward pass for the backward pass, counted exactly.
        extra_peak: peak over the plain network's, minus 1.
        extra_saved: saved bytes over the plain network's, minus 1.
        reason: why something could not be measured.
    """

    name: str
    peak_bytes: Spread | None = None
    saved_bytes: int | None = None
    extra_peak: float | None = None
    extra_saved: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class MemoryRow:
    """Memory of a training step plain, grafted, and with timm's own attention; fields as in `ModelRow`.

    Attributes:
        method: how the peak was measured.
    """

    backbone: str
    attention: str
    dtype: str
    layout: str
    batch_size: int
    image_size: int
    method: str
    entries: tuple[MemoryEntry, ...]

    @property
    def case(self) -> str:
        """What was measured, in words."""
        return f"{self.backbone} {self.attention}, {self.dtype}"

    def entry(self, name: str) -> MemoryEntry:
        """One network; empty where the row has none of that name."""
        return next((entry for entry in self.entries if entry.name == name), MemoryEntry(name))


@dataclass(frozen=True)
class BenchResult:
    """A whole bench, as in `bench.json`.

    Attributes:
        status: "finished", or "partial" while it goes on or after it was interrupted.
        created: UTC time of the start.
        device: where it ran.
        threads: threads of PyTorch on the CPU.
        settings: as they were given.
        modules, summaries, models, loop, memory: what was measured.
        hardware, versions: where.
        command: the command line, where there was one.
    """

    created: str
    device: str
    threads: int
    settings: dict[str, Any]
    hardware: dict[str, Any]
    versions: dict[str, str]
    status: Literal["partial", "finished"] = "partial"
    modules: tuple[ModuleRow, ...] = ()
    summaries: tuple[ModuleSummary, ...] = ()
    models: tuple[ModelRow, ...] = ()
    loop: tuple[LoopRow, ...] = ()
    memory: tuple[MemoryRow, ...] = ()
    command: str | None = None
    format: int = BENCH_FORMAT
    kind: Literal["bench"] = field(default="bench")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, values: Any) -> BenchResult:
        """Read plain JSON values back.

        Raises:
            ConfigError: something is missing or of another type.
        """
        return from_dict(cls, values, where="bench")
