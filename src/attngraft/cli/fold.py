"""attngraft fold: turn gates that hardly depend on the image into weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import options
from .options import option
from .output import NAME, NUMBER, TEXT, console, print_json, say, say_step, table

if TYPE_CHECKING:
    from ..explanation import Folding


@options.takes(*options.READING, "group_by")
def run(
    model: options.Model,
    data: options.LabelledData,
    out: Annotated[Path, option("Folder for the folded model.", "FOLDER", *options.OUT)],
    settings: dict[str, Any],
    tolerance: options.Tolerance = 0.005,
    batch_size: options.BatchSize = 64,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Fold gates that hardly depend on the image into the weights.

    Accuracy is measured on the images that are given; as much is folded as the tolerance allows.
    """
    from ..explanation import fold, view_of
    from ..explanation.folding import check_free
    from ..settings import MachineSettings
    from ..surgery import load

    check_free(out)
    network = load(model).to(MachineSettings(device=device).resolve_device())
    view = view_of(network, data, **settings)
    found = fold(network, view, tolerance=tolerance, batch_size=batch_size, progress=None if as_json else say_step)
    path = found.write(out, source=model)
    if as_json:
        print_json(found.to_json())
        return
    _print(found)
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
        say(f"kept ({reason}): {', '.join(parts)}")
    say(found)
