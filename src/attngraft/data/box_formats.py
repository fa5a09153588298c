"""Read annotated boxes in whichever format a folder has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import DataError, nearest
from .annotated_boxes import AnnotatedImages
from .coco_boxes import coco_files, read_coco
from .read_image import printable
from .voc_boxes import read_voc, voc_folders
from .yolo_boxes import read_yolo, yolo_file

READERS: dict[str, Callable[..., AnnotatedImages]] = {"coco": read_coco, "yolo": read_yolo, "voc": read_voc}
_SUFFIXES = {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}
LAYOUT = (
    "expected COCO (annotations/instances_train.json or train/_annotations.coco.json), YOLO (data.yaml) or Pascal VOC "
    "(Annotations/*.xml and JPEGImages/)"
)


def box_format(source: str | Path) -> str | None:
    """Which of `READERS` reads a folder or a file; None where there are no annotated boxes.

    Raises:
        DataError: there is no such folder, or several files of one format of which it is not clear which is meant.
    """
    source = Path(source)
    if not source.is_dir():
        return _SUFFIXES.get(source.suffix.lower()) if source.is_file() else None
    if yolo_file(source):
        return "yolo"
    if coco_files(source):
        return "coco"
    return "voc" if voc_folders(source) else None


def read_annotated(source: str | Path, layout: str | None = None, *, skip_broken: bool = False) -> AnnotatedImages:
    """Read all images of a folder with their boxes.

    Args:
        source: a folder, a JSON file of COCO, or a YAML file of YOLO.
        layout: "coco", "yolo" or "voc"; found out where not given.
        skip_broken: leave out images that cannot be read instead of an error.

    Raises:
        DataError: what is there cannot be understood; names the file and the place in it.
    """
    source = Path(source)
    if layout is not None and layout not in READERS:
        raise DataError(f"there is no format of boxes '{layout}': {nearest(layout, READERS)}")
    if not source.exists():
        raise DataError(f"there is no {printable(source)}: {LAYOUT}.")
    chosen = layout or box_format(source)
    if chosen is None:
        raise DataError(f"{printable(source)} has no annotated boxes: {LAYOUT}.")
    return READERS[chosen](source, skip_broken=skip_broken)
