"""attngraft watch: look after a served model while images arrive."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from ..config import from_dict
from ..settings.serving import AdaptOptions, WatchOptions
from . import options
from .options import argument, option, switch
from .output import print_json, say, say_error


@options.takes("device", of=WatchOptions, assignments=(WatchOptions, AdaptOptions))
def run(
    store: options.StoreFolder,
    folder: Annotated[Path, argument("FOLDER", "Where image files appear.")],
    settings: dict[str, Any],
    labels: Annotated[
        Path | None, option("Where labels appear: a CSV with path,label, or a folder of class folders.", "PATH")
    ] = None,
    every: Annotated[float, option("Seconds between two looks into the folder.", min=0.1)] = 10.0,
    once: Annotated[bool, switch("--once", "Process what is there, and stop.")] = False,
    as_json: options.Json = False,
) -> None:
    """Watch a folder: detect drift, ask for labels, adapt, and go on."""
    from ..continual import watch

    chosen = {field.name: settings.pop(field.name) for field in fields(WatchOptions) if field.name in settings}
    state = watch(
        store,
        folder,
        labels=labels,
        once=once,
        every_s=every,
        say=say_error if as_json else partial(say, wrap=True),
        options=from_dict(WatchOptions, chosen, where="watch"),
        **settings,
    )
    if as_json:
        print_json({"windows": state.windows, "alarm": state.alarm, "labels_wanted": state.asked})
