"""attngraft adapt: re-learn a served model on new data, and serve the result only if it is no worse."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..continual.adaptation.adapt import adapt
from ..continual.adaptation.adaptation_record import Adaptation
from ..continual.adaptation.update import DEFAULT_UPDATE
from . import options
from .output import collect_overrides, console, print_json


class Classes(str, Enum):
    """What to do with classes that the served version does not know."""

    known = "known"
    extend = "extend"


def run(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store, made by attngraft store --create.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="NEWDATA", help="Labelled images: a folder of class folders, a CSV with path,label, a data set."
        ),
    ],
    update: Annotated[
        str, typer.Option(help="What is trained: grafts, bn, head, head-bias, joined by +; or all.")
    ] = DEFAULT_UPDATE,
    classes: Annotated[
        Classes, typer.Option(help="extend adds classes that are new; known refuses them.")
    ] = Classes.known,
    name: Annotated[str | None, typer.Option(help="Of these images in reports; the folder's if not given.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Over the new and the replayed images.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate of grafts, BatchNorm and head.")] = None,
    replay: Annotated[int | None, typer.Option(help="Old images that are learned from again.")] = None,
    distill: Annotated[
        float | None, typer.Option(help="How strongly answers on old images are held to the served version; 0 is off.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Also train what the adaptation is compared with.")
    ] = True,
    seed: Annotated[int | None, typer.Option(help="Of order and augmentation.", min=0)] = None,
    precision: options.PrecisionName = None,
    device: options.Device = None,
    workers: options.Workers = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out files that cannot be read.")] = False,
    limit: Annotated[int | None, typer.Option(help="Use at most this many images.", min=1)] = None,
    root: options.Root = None,
    download: options.Download = None,
    set_: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Learn from new labelled images what the served version lacks; serve the result only if it is no worse."""
    overrides = collect_overrides(
        set_ or (),
        epochs=epochs,
        lr=lr,
        replay=replay,
        distill=distill,
        seed=seed,
        precision=precision,
        device=device,
        workers=workers,
    )
    found = adapt(
        store,
        data,
        update=update,
        classes=classes.value,
        name=name,
        controls=controls,
        skip_broken=skip_broken,
        limit=limit,
        root=root,
        download=bool(download),
        **overrides,
    )
    if as_json:
        print_json(dict(found.document))
        return
    _print(found)


def _print(found: Adaptation) -> None:
    document: dict[str, Any] = dict(found.document)
    data, out = document["data"], console()
    roles = ", ".join(f"{role} {data['roles'].get(role, 0)}" for role in ("learn", "tune", "guard", "final"))
    out.print(f"images: {data['images']} given, {data['labels_used']} new ({roles})", markup=False)
    table = Table()
    table.add_column("variant", no_wrap=True)
    for name in ("new top-1", "old top-1", "parameters changed", "delta", "minutes"):
        table.add_column(name, justify="right")
    for row in document["variants"]:
        share = row["changed_parameters"] / row["parameters"]
        table.add_row(
            row["name"],
            f"{row['new_top1']:.1%}",
            f"{row['old_top1']:.1%}",
            f"{row['changed_parameters']:,} ({share:.1%})",
            f"{row['delta_bytes'] / 1024:,.0f} KiB",
            f"{row['minutes']:.1f}",
        )
    out.print(table)
    out.print(
        f"(on the tune images: {document['new_images']} new, {document['old_images']} old; "
        f"{document['blend']['chosen']:.0%} of the way to the new weights was chosen on them)",
        markup=False,
        soft_wrap=True,
    )
    if document["recovery"] is not None:
        out.print(
            f"recovery: {document['recovery']:.0%} of what fine-tuning everything gains on the new images", markup=False
        )
    out.print(document["sentence"], markup=False, soft_wrap=True)
