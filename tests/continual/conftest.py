from __future__ import annotations

import pytest
from adapting import Stores


@pytest.fixture(scope="session")
def stores() -> Stores:
    return Stores()


@pytest.fixture
def write_folder():
    """Writes images of some classes, each with its shift, into class folders."""
    from pathlib import Path

    from adapting import coloured_noise
    from PIL import Image

    def write(folder: Path, count: int, classes: dict) -> Path:
        for number, (name, shift) in enumerate(classes.items()):
            images = coloured_noise(count, 50 + number, shift)
            (folder / name).mkdir(parents=True)
            for position in [i for i in range(count) if images.labels[i] == number]:
                pixels = images.image(position).permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(folder / name / f"{position}.png")
        return folder

    return write
