"""Small image folders made on the fly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_folders import MakeFolder, write_noise

from attngraft.data import ImageSet
from attngraft.data.pixel_store import decode_array


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder({"train/ants": 3, ...}): that many images, all different, in each folder."""

    def make(counts: dict[str, int], name: str = "photos", first_seed: int = 0) -> Path:
        root = tmp_path / name
        seed = first_seed
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                write_noise(root / folder / f"{i}.png", seed)
                seed += 1
        return root

    return make


@pytest.fixture
def image_set() -> ImageSet:
    """37 different images of 12 x 10 pixels in 3 classes."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(37, 10, 12, 3), dtype=np.uint8)
    decoded = decode_array(pixels, limit=100)
    return ImageSet(
        ids=tuple(f"{i}" for i in range(37)),
        targets=np.arange(37, dtype=np.int64) % 3,
        pixel_hashes=decoded.hashes,
        store=decoded.store,
        rows=np.arange(37),
    )
