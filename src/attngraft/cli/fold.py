"""attngraft fold: turn gates that hardly depend on the image into weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import options
from .options import argument, option
from .output import NAME, NUMBER, TEXT, console, print_json, say, say_notes, say_step, table

if TYPE_CHECKING:
    from ..explanation import Folding


@options.takes(*options.READING, "group_by")
def run(
    model: options.Model,
    out: Annotated[Path, option("Folder for the folded model.", "FOLDER", *options.OUT)],
    settings: dict[str, Any],
    data: Annotated[
        str | None,
        argument("DATA", "A folder of class folders, a CSV file, a data set; by default the run's own test images."),
    ] = None,
    tolerance: options.Tolerance = 0.005,
    batch_size: options.BatchSize = 64,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Fold gates that hardly depend on the image into the weights.

    Accuracy is measured on the run's own test images, or those that are given; as much is folded as the tolerance allows.
    """
    from ..deployment.predict import precision_of
    from ..explanation import fold
    from ..explanation.folding import check_free
    from ..explanation.image_source import images_of_run, seen_in_training
    from ..settings import MachineSettings
    from ..surgery import load
    from ..tasks import require, task_of

    check_free(out)
    where, run = MachineSettings(device=device).resolve_device(), model.expanduser()
    network = load(run).to(where)
    require(task_of(network), "fold", "fold")
    view = images_of_run(run, network, data, **settings)
    seen = None if data is None else seen_in_training(run, network, view)
    found = fold(
        network,
        view,
        tolerance=tolerance,
        batch_size=batch_size,
        precision=precision_of(run, where),
        progress=None if as_json else say_step,
    )
    path = found.write(out, source=model)
    if as_json:
        print_json(found.to_json())
        return
    _print(found)
    say_notes([seen] if seen else [])
    say(f"model: {path}")


def _print(found: Folding) -> None:
    from ..surgery.fold import KEPT

    columns = {"site": NAME, "gate": NAME, "dynamic": NUMBER, "swing": NUMBER, "change": NUMBER}
    rows = (
        (part.path, part.part, f"{part.dynamic:.0%}", f"{part.swing:.2g}", f"{part.change:.2g}", part.action)
        for part in found.sites
    )
    console().print(table(columns | {"what became of it": TEXT}, rows))
    kept: dict[str, list[str]] = {}  # reason -> gates
    for part in found.sites:
        if part.action == KEPT:
            kept.setdefault(part.reason, []).append(f"{part.path} {part.part}")
    for reason, parts in kept.items():
        say(f"kept ({reason}): {', '.join(parts)}", wrap=True)
    say(found, wrap=True)
