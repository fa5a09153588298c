"""Images with annotated boxes, from COCO, YOLO and Pascal VOC, as a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from .annotated_boxes import AnnotatedImage
from .box_formats import box_format, read_annotated
from .build_dataset import LoadOptions, Pool
from .object_boxes import Boxes, Objects

Decode = Callable[[Pool, Path], Pool]


def has_boxes(source: Path, *, has_masks: bool = False) -> bool:
    """Whether a folder or a file holds annotated boxes.

    Args:
        source: a folder, or a JSON or YAML file.
        has_masks: whether there are masks beside them, as in Pascal VOC, which then count.
    """
    found = box_format(source)
    return found is not None and not (has_masks and found == "voc")


def load_boxes(source: Path, options: LoadOptions, decode: Decode) -> Pool:
    """Read annotations and decode their images.

    Args:
        source: a folder, or a JSON or YAML file.
        options: of `load_data`.
        decode: the pool, the folder that its ids are relative to -> the pool with the images that could be read.

    Raises:
        DataError: as for `read_annotated`, or images that cannot be read.
    """
    read = read_annotated(source, skip_broken=options.skip_broken)
    found = [(split, image) for split, images in read.splits.items() for image in images]
    named = Pool(
        name=read.name,
        classes=read.classes,
        ids=tuple(image.path for _, image in found),
        targets=Boxes.pack([_objects(image) for _, image in found], len(read.classes)),
        splits=np.array([split for split, _ in found], dtype="<U5"),
        notes=read.notes,
    )
    pool = decode(named, read.root)
    assert isinstance(pool.targets, Boxes)
    sizes = {image.path: (image.height, image.width) for _, image in found}
    images = [
        objects.shrunk(width / sizes[name][1], height / sizes[name][0])
        for name, objects, (height, width) in zip(
            pool.ids, pool.targets.images, pool.store.shapes.tolist(), strict=True
        )
    ]
    return replace(pool, targets=replace(pool.targets, images=tuple(images)), skipped=(*read.skipped, *pool.skipped))


def _objects(image: AnnotatedImage) -> Objects:
    return Objects.of(image.boxes, image.labels, image.crowd, image.area)
