"""attngraft watch: look after a served model while images arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from ..config import from_dict
from . import options
from .options import argument, option, switch
from .output import print_json, say, say_error


@options.takes("skip_broken", "device", assignments=True)
def run(
    store: options.StoreFolder,
    folder: Annotated[Path, argument("FOLDER", "Where image files appear.")],
    settings: dict[str, Any],
    labels: Annotated[
        Path | None, option("Where labels appear: a CSV with path,label, or a folder of class folders.", "PATH")
    ] = None,
    window: Annotated[int, option("Images that are tested together.", min=1)] = 500,
    false_alarms: Annotated[float, option("Fraction of clean windows that may raise an alarm.")] = 0.01,
    labels_needed: Annotated[int, option("Labels that an adaptation needs.", min=1)] = 600,
    labels_wanted: Annotated[int, option("Labels to ask for after an alarm.", min=1)] = 1000,
    rise: Annotated[float, option("Rise of the error rate to detect where labels arrive.")] = 0.05,
    adapt_on: Annotated[
        Literal["loss", "drift"], option("Adapt only where labels show a loss, class by class; or after every alarm.")
    ] = "loss",
    every: Annotated[float, option("Seconds between two looks into the folder.", min=0.1)] = 10.0,
    once: Annotated[bool, switch("--once", "Process what is there, and stop.")] = False,
    experimental: Annotated[
        bool,
        switch(
            "--experimental", "Classify drifted windows with BatchNorm statistics of their own; nothing of it is kept."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Watch a folder: detect drift, ask for labels, adapt, and go on."""
    from ..continual import WatchOptions, watch

    chosen = {
        "window": window,
        "false_alarms": false_alarms,
        "labels_needed": labels_needed,
        "labels_wanted": labels_wanted,
        "adapt_on": adapt_on,
        "rise": rise,
        "skip_broken": settings.pop("skip_broken", False),
        "experimental": experimental,
    }
    state = watch(
        store,
        folder,
        labels=labels,
        once=once,
        every_s=every,
        say=say_error if as_json else say,
        options=from_dict(WatchOptions, chosen, where="watch"),
        **settings,
    )
    if as_json:
        print_json({"windows": state.windows, "alarm": state.alarm, "labels_wanted": state.asked})
