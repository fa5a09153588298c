"""attngraft adapt: re-learn a served model on new data, and serve the result only if it is no worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..settings.serving import AdaptOptions
from . import options
from .options import argument, option
from .output import console, print_json, say

if TYPE_CHECKING:
    from ..continual import Adaptation


@options.takes("precision", "device", "workers", *options.READING, of=AdaptOptions, assignments=(AdaptOptions,))
def run(
    store: options.StoreFolder,
    data: Annotated[
        str, argument("NEWDATA", "Labelled images: a folder of class folders, a CSV with path,label, a data set.")
    ],
    settings: dict[str, Any],
    classes: Annotated[Literal["known", "extend"], option("Refuse classes that are new, or add them.")] = "known",
    name: Annotated[str | None, option("Name of these images in reports; the folder's by default.")] = None,
    as_json: options.Json = False,
) -> None:
    """Adapt a served model to new images; serve the result only if it is no worse."""
    from ..continual import adapt

    found = adapt(store, data, classes=classes, name=name, **settings)
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
    say(found, wrap=True)
