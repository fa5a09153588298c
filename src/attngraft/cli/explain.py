"""attngraft explain: what a trained model's attention does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from ..answers import Question
from ..checksums import read_sealed_json
from ..errors import RunError
from . import options
from .again import keep_answer, say_again
from .options import argument, option
from .output import command_line, print_json, say_step
from .printout import Printout

FOLDER = "explanation"  # as of `explanation.explain`, which takes PyTorch to import


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
    asked = {"tolerance": tolerance, "examples": examples, "device": device, "seed": seed, **settings}
    before = _question(model, images, out, boxes, asked)
    if say_again(before, as_json):
        return
    from ..explanation import explain
    from ..explanation.explain import EXPLANATION_FILE
    from ..reporting import write_report
    from ..training import Silent, watched

    with watched(Silent() if as_json else None) as bars:
        step = None if as_json else say_step
        found = explain(model, images, out=out, boxes=boxes, command=command_line(), progress=step, bars=bars, **asked)
    page = write_report(found.folder)
    shown = Printout()
    for sentence in found.sentences:
        shown.say(sentence, wrap=True)
    shown.notes(found.record.notes)
    shown.say(f"report: {page}")
    keep_answer(before, shown, EXPLANATION_FILE)
    if as_json:
        print_json(dict(found.document))
    else:
        shown.show()


def _question(
    run: Path, images: str | None, out: Path | None, boxes: Path | None, asked: dict[str, Any]
) -> Question | None:
    """What is asked for; None where the files that it reads cannot be told."""
    run = run.expanduser()
    source, folder = images or _own_images(run), out or (run / FOLDER if run.is_dir() else None)
    if source is None or folder is None:
        return None
    whole = run.resolve()
    baseline = whole.parent.parent / "none" / whole.name  # whose network is shown beside, in a comparison
    return Question.about("explain", folder, [source], run, boxes, baseline, own=images is None, **asked)


def _own_images(run: Path) -> str | None:
    """Where a run says that its images lie."""
    try:
        return str(read_sealed_json(run / "run.json")[0]["data"]["origin"]["source"])
    except (RunError, OSError, KeyError, TypeError):
        return None
