"""Segmentation on the command line, as a user with a folder of masks and a network of their own does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NETWORK = """
from torch import nn

def make(num_classes):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, num_classes, 1),
    )
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Photographs of 40 x 60 pixels with a white square, and where it is."""
    folder = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(0)
    for number in range(30):
        mask = np.zeros((40, 60), dtype=np.uint8)
        top, left = rng.integers(5, 20, 2)
        mask[top : top + 14, left : left + 14] = 1
        pixels = rng.integers(90, size=(40, 60, 3), dtype=np.uint8) + mask[..., None] * np.uint8(150)
        for name, picture in (("images", pixels), ("masks", mask)):
            (folder / "cells" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / "cells" / name / f"{number:02d}.png")
    (folder / "net.py").write_text(NETWORK)
    return folder


def test_from_a_folder_of_masks_to_masks_in_a_folder(attngraft, place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    options = ("--recipe", "one-cycle", "--epochs", 8, "--lr", 0.02, "--image-size", 32, "--batch-size", 8)
    code, out, err = attngraft(
        "fit", "cells", "--backbone", "net.py:make", "--attention", "se@stage", "--out", "run", *options
    )
    assert code == 0, err
    assert "mean IoU" in out + err
    code, out, err = attngraft("--network", "net.py:make", "predict", "run", "cells/images/03.png", "--top", 2)
    assert code == 0, err
    assert out.splitlines()[0] == "image,class_1,share_1,class_2,share_2"
    command = ("--network", "net.py:make", "predict", "run", "cells/images", "--masks", "found")
    code, out, err = attngraft(*command)
    assert code == 0, err
    assert "masks of 30 images: found" in out
    mask, true = (np.array(Image.open(f"{folder}/07.png")) for folder in ("found", "cells/masks"))
    assert mask.shape == true.shape
    assert (mask == true).mean() > 0.9
    code, _, err = attngraft(*command)
    assert code == 2
    assert "found is there already, and nothing is overwritten" in err
    code, _, err = attngraft("--network", "net.py:make", "predict", "run", "cells/images", "--tile", 32)
    assert code == 2
    assert "--tile is for --masks" in err
    for verb in ("fold", "explain"):
        code, _, err = attngraft("--network", "net.py:make", verb, "run", "--out", "other")
        assert code == 2
        assert f"{verb} is not available for segmentation" in err
    code, out, err = attngraft("--network", "net.py:make", "report", "run")
    assert code == 0, err
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "mean IoU" in page
    assert "Largest losses" in page
