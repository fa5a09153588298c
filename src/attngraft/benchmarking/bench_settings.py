"""Settings of a benchmark: parts, attentions, precisions, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args, get_type_hints

from ..attention import ATTENTIONS
from ..errors import ConfigError, nearest
from ..training import Precision

PARTS = ("modules", "models", "loop", "memory")
RESNET50_MAPS = ((64, 56, 56), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
QUICK_MAPS = ((64, 56, 56), (1024, 14, 14))
BACKBONES = ("timm:resnet18", "timm:resnet50", "timm:tf_efficientnet_lite0")
ATTENTIONS_TIMED = ("cbam", "se", "eca")
QUICK_IMAGES, QUICK_PIXELS = 4, 96
REPEATS = {"modules": 15, "models": 9, "loop": 5, "memory": 3}
QUICK_REPEATS = {"modules": 5, "models": 3, "loop": 2, "memory": 1}


@dataclass(frozen=True)
class LoopCase:
    """Images to train on.

    Attributes:
        backbone: what is trained.
        image_size: side of the input in pixels.
        files: "jpeg" or "png".
        height, width: of the files in pixels.
    """

    backbone: str
    image_size: int
    files: str
    height: int
    width: int


@dataclass(frozen=True)
class BenchSettings:
    """What to measure; whatever is None is chosen by `quick` and the part.

    Attributes:
        parts: of `PARTS`.
        attentions: names of registered attentions: CBAM, SE and ECA, with `quick` CBAM.
        dtypes: "fp32", "bf16" (autocast, weights in fp32).
        layouts: "contiguous", "channels_last".
        device: "auto", "cpu", "cuda", ...
        quick: fewer of everything and smaller: a first look within a minute on two quiet cores.
        compile: measure torch.compile of timm's modules too; unless `quick`.
        batch_size: images per batch: 32, with `quick` 4.
        repeats: timed rounds.
        image_size: input of the models in pixels; the backbone's own, with `quick` 96.
        backbones: of the parts models and memory, the first one of loop too; three of timm, for memory ResNet-50.
        shapes: feature maps (C, H, W) of the part modules; those of ResNet-50.
        loops: what the part loop trains on.
    """

    parts: tuple[str, ...] = PARTS
    attentions: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] = ("fp32",)
    layouts: tuple[str, ...] = ("contiguous",)
    device: str = "auto"
    quick: bool = False
    compile: bool | None = None
    batch_size: int | None = None
    repeats: int | None = None
    image_size: int | None = None
    backbones: tuple[str, ...] | None = None
    shapes: tuple[tuple[int, int, int], ...] | None = None
    loops: tuple[LoopCase, ...] | None = None

    def __post_init__(self) -> None:
        precisions = get_type_hints(Precision)
        _check_names("part", self.parts, PARTS)
        _check_names("dtype", self.dtypes, get_args(precisions["dtype"]))
        _check_names("layout", self.layouts, get_args(precisions["layout"]))
        _check_names("attention", self.measured, ())
        _check_names("backbone", ("",) if self.backbones == () else self.backbones or BACKBONES, ())
        for name in self.measured:
            ATTENTIONS[name]  # an unknown name is a sentence with the nearest one
        for field, least in (("batch_size", 2), ("repeats", 1), ("image_size", 8)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise ConfigError(f"{field} is {value}: expected at least {least}.")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        return tuple(Precision(dtype, layout) for dtype in self.dtypes for layout in self.layouts)  # type: ignore[arg-type]

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the attentions."""
        usual = ATTENTIONS_TIMED[:1] if self.quick else ATTENTIONS_TIMED
        return usual if self.attentions is None else self.attentions

    @property
    def compiles(self) -> bool:
        """Whether torch.compile is measured."""
        return not self.quick if self.compile is None else self.compile

    @property
    def pixels(self) -> int | None:
        """Side of the input of the models; None for the backbone's own."""
        return self.image_size or (QUICK_PIXELS if self.quick else None)

    @property
    def images(self) -> int:
        """Images per batch."""
        return self.batch_size or (QUICK_IMAGES if self.quick else 32)

    @property
    def maps(self) -> tuple[tuple[int, int, int], ...]:
        return self.shapes or (QUICK_MAPS if self.quick else RESNET50_MAPS)

    @property
    def model_backbones(self) -> tuple[str, ...]:
        return self.backbones or (BACKBONES[:1] if self.quick else BACKBONES)

    @property
    def memory_backbones(self) -> tuple[str, ...]:
        return self.backbones or (BACKBONES[:1] if self.quick else BACKBONES[1:2])

    @property
    def loop_cases(self) -> tuple[LoopCase, ...]:
        """Photos for the first backbone, stored as `load_data` would, and unless `quick` images of 32 px."""
        photos = LoopCase(self.model_backbones[0], self.pixels or 160, "jpeg", 240, 320)
        small = LoopCase("resnet18-32", 32, "png", 32, 32)
        return self.loops or ((photos,) if self.quick else (photos, small))

    def rounds(self, part: str) -> int:
        """Timed rounds of a part."""
        return self.repeats or (QUICK_REPEATS if self.quick else REPEATS)[part]


def parse_shapes(text: str) -> tuple[tuple[int, int, int], ...]:
    """Feature maps from text.

    >>> parse_shapes("64x56x56, 8x7x7")
    ((64, 56, 56), (8, 7, 7))

    Raises:
        ConfigError: not of the form CxHxW, comma-separated.
    """
    found = []
    for part in text.split(","):
        numbers = part.strip().split("x")
        if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
            raise ConfigError(f"shape is '{part.strip()}': expected channels x height x width, for example 64x56x56.")
        found.append((int(numbers[0]), int(numbers[1]), int(numbers[2])))
    return tuple(found)


def _check_names(kind: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """At least one, none empty, none twice, all known."""
    if not names or not all(names):
        raise ConfigError(f"no {kind} is named: expected at least one{', of ' + ', '.join(known) if known else ''}.")
    for name in names:
        if known and name not in known:
            raise ConfigError(f"unknown {kind} '{name}': {nearest(name, known)}")
        if names.count(name) > 1:
            raise ConfigError(f"{kind} '{name}' is named twice: name it once.")
