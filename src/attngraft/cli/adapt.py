"""attngraft adapt: re-learn a served model on new data, and serve the result only if it is no worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from . import options
from .options import argument, option, switch
from .output import NAME, NUMBER, console, print_json, say, table

if TYPE_CHECKING:
    from ..continual import Adaptation


@options.takes("precision", "device", "workers", *options.READING, assignments=True)
def run(
    store: options.StoreFolder,
    data: Annotated[
        str, argument("NEWDATA", "Labelled images: a folder of class folders, a CSV with path,label, a data set.")
    ],
    settings: dict[str, Any],
    update: Annotated[
        str, option("What to train: grafts, bn, head, head-bias, joined by +; or all.", "PARTS")
    ] = "grafts+bn+head-bias",
    classes: Annotated[Literal["known", "extend"], option("Refuse classes that are new, or add them.")] = "known",
    name: Annotated[str | None, option("Name of these images in reports; the folder's by default.")] = None,
    epochs: Annotated[int | None, option("Epochs over the new and the replayed images.")] = None,
    lr: Annotated[float | None, option("Highest learning rate of grafts, BatchNorm and head.")] = None,
    replay: Annotated[int | None, option("Number of old images to learn from again.")] = None,
    distill: Annotated[
        float | None,
        option("Weight of the loss that keeps outputs on old images near the served ones; 0 turns it off."),
    ] = None,
    controls: Annotated[
        bool, switch("--controls/--no-controls", "Also train what the adaptation is compared with.")
    ] = True,
    seed: Annotated[int | None, option("Seed of order and augmentation.", min=0)] = None,
    as_json: options.Json = False,
) -> None:
    """Adapt a served model to new images; serve the result only if it is no worse."""
    from ..continual import adapt

    given = {"epochs": epochs, "lr": lr, "replay": replay, "distill": distill, "seed": seed}
    chosen = {key: value for key, value in given.items() if value is not None} | settings
    found = adapt(store, data, update=update, classes=classes, name=name, controls=controls, **chosen)
    if as_json:
        print_json(dict(found.document))
        return
    _print(found)


def _print(found: Adaptation) -> None:
    document: dict[str, Any] = dict(found.document)
    data = document["data"]
    roles = ", ".join(f"{role} {data['roles'].get(role, 0)}" for role in ("learn", "tune", "guard", "final"))
    say(f"images: {data['images']} given, {data['labels_used']} new ({roles})", wrap=True)
    numbers = ("new top-1", "old top-1", "parameters changed", "delta", "minutes")
    console().print(table({"variant": NAME} | dict.fromkeys(numbers, NUMBER), map(_cells, document["variants"])))
    say(
        f"(on the tune images: {document['new_images']} new, {document['old_images']} old; "
        f"{document['blend']['chosen']:.0%} of the way to the new weights was chosen on them)"
    )
    if document["recovery"] is not None:
        gain = f"{document['recovery']:.0%} of what fine-tuning everything gains on the new images"
        say(f"recovery: {gain}", wrap=True)
    say(document["sentence"])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        f"{row['new_top1']:.1%}",
        f"{row['old_top1']:.1%}",
        f"{row['changed_parameters']:,} ({row['changed_parameters'] / row['parameters']:.1%})",
        f"{row['delta_bytes'] / 1024:,.0f} KiB",
        f"{row['minutes']:.1f}",
    )
