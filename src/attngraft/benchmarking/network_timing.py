"""Time whole networks: plain, grafted, and with timm's own attention at the same sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbones import create_backbone, preprocessing_of
from ..errors import ConfigError
from ..surgery import graft, grafts
from ..training import Precision, Progress, doing
from .bench_result import OURS, PLAIN, Mode, ModelEntry, ModelRow
from .bench_settings import BenchSettings
from .clock import Samples, Task, paired_ratio, spread, time_interleaved
from .timed_steps import inference, random_batch, training_step
from .timm_equivalents import NoPeer, network_disagreement, objection, timm_network

TIMM = "timm"
MODES: tuple[Mode, ...] = ("training step", "inference")
# Output and input gradient in fp32 may differ by so much of their size: a whole network amplifies rounding.
ALLOWED = (1e-2, 5e-2)
CHECK_IMAGES, CHECK_PIXELS = 4, 96


@dataclass(frozen=True)
class NetworkCase:
    """One network and one attention in one precision."""

    backbone: str
    attention: str
    precision: Precision
    batch_size: int
    image_size: int

    @property
    def columns(self) -> tuple[str, str, str, str, int, int]:
        """Backbone, attention, dtype, layout, batch size and image size, as rows of results begin."""
        precision = self.precision
        return self.backbone, self.attention, precision.dtype, precision.layout, self.batch_size, self.image_size

    def __str__(self) -> str:
        return f"{self.backbone} {self.attention} {self.precision}"


@dataclass(frozen=True)
class Networks:
    """A backbone in up to three forms with the same weights.

    Attributes:
        by_name: "plain", "attngraft" and, where timm offers it, "timm".
        reasons: why one is missing.
        sites: attentions in each.
    """

    by_name: dict[str, nn.Module]
    reasons: dict[str, str]
    sites: int


def model_rows(settings: BenchSettings, device: torch.device, progress: Progress) -> Iterator[ModelRow]:
    """Measure every network with every attention in every precision, training and inference."""
    repeats = settings.rounds("models")
    pairs = [(backbone, attention) for backbone in settings.model_backbones for attention in settings.measured]
    progress.start("models", len(pairs) * len(settings.precisions) * len(MODES) * repeats)
    for backbone, attention in pairs:
        networks, image_size = build_networks(backbone, attention, settings.pixels, device)
        for precision in settings.precisions:
            case = NetworkCase(backbone, attention, precision, settings.images, image_size)
            progress.note({"case": str(case)})
            doing(progress, "warming up, compiling kernels")
            for mode in MODES:
                yield measure_models(case, networks, mode, device, repeats=repeats, on_round=progress.advance)


def build_networks(spec: str, attention: str, image_size: int | None, device: torch.device) -> tuple[Networks, int]:
    """The network in its three forms on the device, and the image size.

    That they compute the same function is checked in fp32 on the CPU; what runs on another device is checked with the
    modules alone.
    """
    plain = build_plain(spec)
    size = preprocessing_of(plain, image_size).size[0]
    grafted = build_grafted(plain, attention, size)
    by_name, reasons = {PLAIN: plain, OURS: grafted}, {}
    try:
        by_name[TIMM] = _checked(timm_network(spec, attention, grafted), grafted, min(size, CHECK_PIXELS))
    except NoPeer as reason:
        reasons[TIMM] = str(reason)
    return Networks({name: model.to(device) for name, model in by_name.items()}, reasons, len(grafts(grafted))), size


def _checked(peer: nn.Module, grafted: nn.Module, image_size: int) -> nn.Module:
    """The peer itself where it computes what our network computes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(CHECK_IMAGES, 3, image_size, image_size, generator=generator)
    problem = objection(network_disagreement(grafted, peer, images), ALLOWED)
    if problem:
        raise NoPeer(problem)
    return peer


def check_networks(settings: BenchSettings) -> None:
    """Raise what the networks that are named would raise, before anything is measured.

    Raises:
        ConfigError, BackboneError, GraftError: one of them cannot be made, grafted, or given other outputs.
    """
    for spec in settings.backbones or ():
        if {"models", "memory"} & set(settings.parts):
            plain = build_plain(spec)
            for attention in settings.measured:
                build_grafted(plain, attention, preprocessing_of(plain, settings.pixels).size[0])
    for case in settings.loop_cases if "loop" in settings.parts and settings.backbones else ():
        create_backbone(case.backbone, num_classes=2, pretrained=False)


def build_plain(spec: str) -> nn.Module:
    """The backbone from random weights in which nothing is switched off."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_backbone(spec, pretrained=False)
    if grafts(model):
        raise ConfigError(f"the backbone {spec} has grafts already: give a plain one, such as timm:resnet50.")
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.weight is not None and not module.weight.any():
            nn.init.ones_(module.weight)  # a zero at the end of a branch would hide what an attention there computes
    return model


def build_grafted(plain: nn.Module, attention: str, image_size: int) -> nn.Module:
    """The published form of an attention in a copy of the backbone, where "auto" puts it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return graft(plain, attention, init="paper", input_size=(3, image_size, image_size))


def measure_models(
    case: NetworkCase,
    networks: Networks,
    mode: Mode,
    device: torch.device,
    *,
    repeats: int,
    on_round: Callable[[], object],
) -> ModelRow:
    """Time the forms of a network in one race."""
    batch = random_batch(networks.by_name[PLAIN], case.batch_size, case.image_size, case.precision, device)
    tasks = {name: _task(mode, model, *batch, case.precision) for name, model in networks.by_name.items()}
    samples = time_interleaved(tasks, repeats=repeats, device=device, on_round=on_round)
    for model in networks.by_name.values():
        model.zero_grad(set_to_none=True)
    return model_row(case, mode, samples, networks.reasons, sites=networks.sites)


def model_row(case: NetworkCase, mode: Mode, samples: Samples, reasons: dict[str, str], *, sites: int) -> ModelRow:
    """From times in milliseconds to medians and paired ratios."""
    entries = tuple(
        _entry(name, samples, case.batch_size) if name in samples else ModelEntry(name, reason=reasons[name])
        for name in (PLAIN, OURS, TIMM)
        if name in samples or name in reasons
    )
    return ModelRow(*case.columns, mode, sites, entries)


def _entry(name: str, samples: Samples, batch_size: int) -> ModelEntry:
    times = spread(samples[name])
    return ModelEntry(
        name,
        times,
        over_plain=paired_ratio(samples[name], samples[PLAIN]),
        speedup=paired_ratio(samples[name], samples[OURS]),
        images_per_s=1e3 * batch_size / times.median,
    )


def _task(mode: Mode, model: nn.Module, images: Tensor, labels: Tensor, precision: Precision) -> Task:
    model.to(memory_format=precision.memory_format)  # type: ignore[call-overload]
    if mode == "inference":
        return inference(model, images, precision)
    return training_step(model, images, labels, precision)
