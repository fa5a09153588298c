"""Both images of nearly equal images lie in the folder of a run, and its page shows them side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image

import attngraft as ag
from attngraft.config import to_dict
from attngraft.data.leak_pictures import names_of_pair, write_leak_pictures
from attngraft.reporting.page_parts import data_warnings
from attngraft.training import DataRecord


def test_the_pictures_of_a_pair_are_written_and_shown(tmp_path):
    rng = np.random.default_rng(0)
    for place in ("train/a/0", "train/b/0", "test/a/0", "test/b/0"):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        (tmp_path / place).parent.mkdir(parents=True)
        coarse.resize((90, 90), Image.Resampling.BICUBIC).save(tmp_path / f"{place}.png")
    Image.open(tmp_path / "train/a/0.png").save(tmp_path / "test/a/again.jpg", quality=80)
    dataset = ag.load_data(tmp_path, image_size=64)
    assert dataset.report.near_leaks == (("train/a/0.png", "test/a/again.jpg"),)
    data, folder = to_dict(DataRecord.of(dataset)), tmp_path / "run"
    [warned] = data_warnings(data, folder)
    assert warned.pictures == ()
    assert warned.items
    write_leak_pictures(folder, dataset)
    assert all((folder / name).is_file() for name in names_of_pair(0))
    [warned] = data_warnings(data, folder)
    [(words, pictures)] = warned.pictures
    assert words == "train/a/0.png ~ test/a/again.jpg"
    assert all(picture.startswith("data:image/") for picture in pictures)
