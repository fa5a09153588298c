"""Options that several verbs take, each documented once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Argument(
        help="A folder of class folders, or cluttered-digits, cifar10, cifar100, mnist, fashion-mnist, imagenet."
    ),
]
Backbone = Annotated[
    str,
    typer.Option(
        help="timm:NAME, torchvision:NAME, small-cnn, resnet20-32, resnet18-32, resnet50-32, or a run folder."
    ),
]
RecipeName = Annotated[str, typer.Option(help="three-phase, one-cycle, scratch, plateau, or the path of a .toml file.")]
Epochs = Annotated[int | None, typer.Option(help="Total epochs; the recipe's phases stretch or shrink in proportion.")]
ImageSize = Annotated[int | None, typer.Option(help="Input side in pixels; the backbone's own if not given.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per optimiser step.")]
Augment = Annotated[str | None, typer.Option(help="none, light or strong.")]
Pretrained = Annotated[
    bool | None,
    typer.Option("--pretrained/--no-pretrained", help="Start from published weights; by default if there are any."),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Start from these weights: .safetensors, .pth, .pt, .bin or .ckpt; no code in them is run.",
    ),
]
PrecisionName = Annotated[str | None, typer.Option(help="auto (timed once), fp32 or bf16.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Workers = Annotated[int | None, typer.Option(help="Processes that prepare images.")]
OnNonfinite = Annotated[
    str | None,
    typer.Option(
        "--on-nonfinite",
        help="Where a loss, gradient or weight is not finite: stop, or rollback to the epoch's start with half the rates.",
    ),
]
SkipBroken = Annotated[
    bool | None, typer.Option("--skip-broken", help="Leave out files that cannot be read, and report them.")
]
FixLeaks = Annotated[
    bool | None,
    typer.Option("--fix-leaks", help="Keep pictures that are equal, or saved again, on one side of the splits."),
]
Limit = Annotated[int | None, typer.Option(help="Use at most this many images per split, for a quick look.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the torchvision data sets.")]
Download = Annotated[bool | None, typer.Option("--download", help="Allow their download.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any field of the recipe or the settings, for example clip_norm=1. Repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
