"""attngraft adapt: re-learn a served model on new data, and serve the result only if it is no worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from . import options
from .options import argument, option, switch
from .output import console, print_json, say

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
    from ..reporting import adaptation_table

    document, data = found.document, found.document["data"]
    roles = ", ".join(f"{role} {data['roles'].get(role, 0)}" for role in ("learn", "tune", "guard", "final"))
    say(f"images: {data['images']} given, {data['labels_used']} new ({roles})", wrap=True)
    console().print(adaptation_table(document))
    if document["recovery"] is not None:
        gain = f"{document['recovery']:.0%} of what fine-tuning everything gains on the new images"
        say(f"recovery: {gain}", wrap=True)
    say(found)
