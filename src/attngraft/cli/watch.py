"""attngraft watch: look after a served model while images arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import from_dict
from ..continual.stream.watch import watch
from ..continual.stream.watch_options import AdaptOn, WatchOptions
from . import options
from .output import collect_overrides, console, error_console, print_json


def run(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store, made by attngraft store --create.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where image files appear.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="Where labels appear: a CSV with path,label, or a folder of class folders."),
    ] = None,
    window: Annotated[int, typer.Option(help="Images that are tested together.", min=1)] = 500,
    false_alarms: Annotated[float, typer.Option(help="Part of clean windows that may raise an alarm.")] = 0.01,
    labels_needed: Annotated[int, typer.Option(help="Labels that an adaptation needs.", min=1)] = 600,
    labels_wanted: Annotated[int, typer.Option(help="Labels that are asked for after an alarm.", min=1)] = 1000,
    rise: Annotated[float, typer.Option(help="Rise of the error rate that is looked for where labels arrive.")] = 0.05,
    adapt_on: Annotated[
        AdaptOn, typer.Option(help="loss: only where labels show one, class by class; drift: after every alarm.")
    ] = "loss",
    every: Annotated[float, typer.Option(help="Seconds between two looks into the folder.", min=0.1)] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Deal with what is there, and stop.")] = False,
    experimental: Annotated[
        bool,
        typer.Option(
            "--experimental", help="Answer drifted windows with BatchNorm statistics of their own; nothing is kept."
        ),
    ] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out files that cannot be read.")] = False,
    device: options.Device = None,
    set_: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """See images as they arrive, notice drift, ask for labels, adapt, and go on."""
    chosen = {
        "window": window,
        "false_alarms": false_alarms,
        "labels_needed": labels_needed,
        "labels_wanted": labels_wanted,
        "adapt_on": adapt_on,
        "rise": rise,
        "skip_broken": skip_broken,
        "experimental": experimental,
    }

    told = error_console() if as_json else console()

    def say(sentence: str) -> None:
        told.print(sentence, markup=False, soft_wrap=True)

    state = watch(
        store,
        folder,
        labels=labels,
        once=once,
        every_s=every,
        say=say,
        options=from_dict(WatchOptions, chosen, where="watch"),
        **collect_overrides(set_ or (), device=device),
    )
    if as_json:
        print_json({"windows": state.windows, "alarm": state.alarm, "labels_wanted": state.asked})
