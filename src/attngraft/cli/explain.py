"""attngraft explain: what a trained model's attention does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from . import options
from .options import argument, option
from .output import command_line, print_json, say, say_notes, say_step


@options.takes(*options.READING, "group_by")
def run(
    model: options.Model,
    settings: dict[str, Any],
    images: Annotated[
        str | None,
        argument(
            "IMAGES",
            "A folder of class folders, a CSV file, a data set, or a folder of images; by default the run's own test images.",
        ),
    ] = None,
    out: Annotated[
        Path | None, option("Folder for the results.  [default: RUN/explanation]", "FOLDER", *options.OUT)
    ] = None,
    boxes: Annotated[
        Path | None, option("CSV with image,x0,y0,x1,y1 in pixels of the image files (pointing game).", "FILE")
    ] = None,
    tolerance: options.Tolerance = 0.005,
    examples: Annotated[int, option("Images to show.", min=0)] = 8,
    device: options.Device = "cpu",
    seed: Annotated[int, option("Seed of shuffles, random maps and sampled permutations.", min=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """Show the gates, what each is worth, where the model looks, and what folds away."""
    from ..explanation import explain
    from ..reporting import write_report

    found = explain(
        model,
        images,
        out=out,
        boxes=boxes,
        tolerance=tolerance,
        examples=examples,
        device=device,
        seed=seed,
        command=command_line(),
        progress=None if as_json else say_step,
        **settings,
    )
    page = write_report(found.folder)
    if as_json:
        print_json(dict(found.document))
        return
    for sentence in found.sentences:
        say(sentence, wrap=True)
    say_notes(found.record.notes)
    say(f"report: {page}")
