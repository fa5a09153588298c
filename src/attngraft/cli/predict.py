"""attngraft predict: predict images with a run."""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import ConfigError, RunError, counted
from . import options
from .options import argument, option, switch
from .output import print_raw, say, say_error

if TYPE_CHECKING:
    from ..deployment.predict import Predictions

FORMATS = ("csv", "json")


def run(
    model: options.Model,
    images: Annotated[list[Path], argument("IMAGES...", "Image files, folders, or CSV files that list images.")],
    top: Annotated[int, option("Number of classes per image.", min=1)] = 1,
    out: Annotated[
        str | None,
        option("Write this .csv or .json file; csv or json alone is the format to print.", "FILE", "--out", "--output"),
    ] = None,
    labels: Annotated[
        Path | None,
        option("Where the true classes are: a folder of class folders, or a CSV with path,label.", "PATH"),
    ] = None,
    batch_size: options.BatchSize = 32,
    skip_broken: Annotated[
        bool, switch("--skip-broken", "Leave out files that cannot be read, and report them.")
    ] = False,
    device: options.Device = "cpu",
    precision: Annotated[str, option("Number format: auto for that of the run, or fp32, bf16.", "NAME")] = "auto",
    tta: Annotated[
        bool,
        switch(
            "--tta",
            "Predict the mean over crops of each image and their mirror images (none of digits; leave it out for other "
            "images that mean something else mirrored).",
        ),
    ] = False,
    masks: Annotated[
        Path | None, option("Of a segmentation network: write the mask of each image into this new folder.", "FOLDER")
    ] = None,
    tile: Annotated[
        int | None,
        option("With --masks: cut images with a longer side into overlapping tiles of so many pixels.", "PIXELS"),
    ] = None,
    boxes: Annotated[
        Path | None,
        option(
            "Of a detector: write the objects of all images into this new .json (COCO's results) or .csv file.", "FILE"
        ),
    ] = None,
    score: Annotated[
        float | None, option("With --boxes: leave out objects with a lower score; 0.05 by default.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Predict images: classes, labels, numbers, masks or boxes, and the accuracy where labels are given."""
    if boxes is not None:
        least = {} if score is None else {"least_score": score}
        usual = {"batch_size": batch_size, "skip_broken": skip_broken, "device": device, "precision": precision}
        _write_boxes(boxes, model, images, **usual, **least)
        return
    if score is not None:
        raise ConfigError("--score is for --boxes FILE: give both, or neither.")
    if masks is not None:
        _write_masks(masks, model, images, tile=tile, batch_size=batch_size, skip_broken=skip_broken, device=device)
        return
    if tile is not None:
        raise ConfigError("--tile is for --masks FOLDER: give both, or neither.")
    file, kind = _target(out, as_json)
    from ..data import printable
    from ..deployment import predict

    found = predict(
        model,
        images,
        labels=labels,
        batch_size=batch_size,
        skip_broken=skip_broken,
        device=device,
        precision=precision,
        tta=tta,
    )
    text = found.to_csv(top) if kind == "csv" else found.to_json(top) + "\n"
    if file is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be text: their bytes come out
        print_raw(text)
    else:
        _write(file, text)
        say(f"predictions of {counted(len(found.ids), 'image')}: {file}")
    for path, reason in found.skipped:
        say_error(f"skipped {printable(path)}: {reason}")
    for note in found.notes:
        say_error(note)
    if labels is not None:
        (say_error if file is None else say)(_accuracy(found))


def _write_masks(folder: Path, model: Path, images: list[Path], **options: Any) -> None:
    """Write masks as PNG files of indices with the colours of Pascal VOC, under the names of the images.

    Raises:
        RunError: there is such a folder.
    """
    from PIL import Image

    from ..data import printable
    from ..data.masks import class_colours
    from ..deployment import segment
    from ..files import write_atomically

    if os.path.lexists(folder):
        raise RunError(f"{folder} is there already, and nothing is overwritten: choose another name, or remove it.")
    palette, taken = class_colours(256).ravel().tolist(), set[str]()
    skipped: list[tuple[str, str]] = []
    for name, mask in segment(model, images, skipped=skipped, **options):
        stem, number = Path(name).stem, 1
        while (file := f"{stem}{f'-{number}' if number > 1 else ''}.png") in taken:
            number += 1
        taken.add(file)
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette(palette)
        write_atomically(folder / file, partial(picture.save, format="PNG"))
    say(f"masks of {counted(len(taken), 'image')}: {folder}")
    for path, reason in skipped:
        say_error(f"skipped {printable(path)}: {reason}")


def _write_boxes(file: Path, model: Path, images: list[Path], **options: Any) -> None:
    """Write the objects that a detector finds.

    Raises:
        ConfigError: a file of another kind.
        RunError: there is such a file.
    """
    from ..data import printable
    from ..deployment import detect
    from ..deployment.detect import to_coco, to_csv
    from ..surgery import load
    from ..tasks import task_of

    target, kind = _target(str(file), False, "--boxes")
    if target is None:
        raise ConfigError(f"--boxes is '{file}': expected the name of a .csv or .json file.")
    skipped: list[tuple[str, str]] = []
    network = load(model)
    found = list(detect(network, images, skipped=skipped, **options))
    _write(target, to_csv(found) if kind == "csv" else to_coco(found, task_of(network).outputs))
    count = counted(sum(len(one.scores) for one in found), "object")
    say(f"{count} in {counted(len(found), 'image')}: {target}")
    for path, reason in skipped:
        say_error(f"skipped {printable(path)}: {reason}")


def _target(out: str | None, as_json: bool, name: str = "--out") -> tuple[Path | None, str]:
    """The file to write, if any, and the format.

    Raises:
        ConfigError: no such format.
        RunError: there is such a file, or a file where its folder should be.
    """
    if out is None or out in FORMATS:
        return None, "json" if as_json else out or "csv"
    file = Path(out).expanduser()
    kind = file.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise ConfigError(f"{name} is '{out}': expected the name of a .csv or .json file, or csv or json to print it.")
    if os.path.lexists(file):
        raise RunError(f"{file} is there already, and nothing is overwritten: choose another name, or remove it.")
    place = next(folder for folder in file.absolute().parents if os.path.lexists(folder))
    if not place.is_dir():
        raise RunError(f"{file} cannot be written, because {place} is no folder: choose another name.")
    return file, kind


def _write(file: Path, text: str) -> None:
    from ..files import write_atomically

    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="surrogateescape"))


def _accuracy(found: Predictions) -> str:
    from ..tasks import primary

    metric = primary(found.task)
    without = len(found.ids) - found.labelled
    more = f"; {counted(without, 'image')} without a label" if without else ""
    return f"{metric.label}: {metric.show(found.score)} of {counted(found.labelled, 'labelled image')}{more}"
