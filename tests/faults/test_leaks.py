"""Pictures on two sides of a split: found when equal, found when saved again, not found when they are different."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_helpers import run_fit, short_recipe, small_model
from typer.testing import CliRunner

import attngraft.data.leaks
from attngraft.cli import app
from attngraft.config import Preprocessing, to_dict
from attngraft.data import Dataset, ImageSet, load_data
from attngraft.data.digits import load_digits
from attngraft.data.near_duplicates.search import SIDE, copies, near_pairs, sketches
from attngraft.errors import DataError, RunError
from attngraft.explanation.image_source import own_test_images
from attngraft.reporting import data_notes
from attngraft.reporting.page_parts import data_warnings
from attngraft.training import DataRecord

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def scene(seed: int, side: int = 48) -> Image.Image:
    """Blobs of every size and colour, as large ones are stronger in photos too."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for cells in (2, 3, 5, 9, 16):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += (np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), dtype=float) - 128) / cells**0.7
    total += rng.normal(0, 2, total.shape)
    return Image.fromarray((128 + total * 50 / total.std()).clip(0, 255).astype(np.uint8))


def again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = round(image.width * float(rng.choice([0.5, 0.75, 1.25, 2.0])))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    left, top, right, bottom = (round(float(part) * image.width) for part in rng.uniform(0, 0.1, 4))
    return image.crop((left, top, image.width - right, image.height - bottom))


def lighter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray((np.asarray(image) * rng.uniform(0.9, 1.1)).clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "quality 90": lambda image, _: again(image, 90),
    "quality 50": lambda image, _: again(image, 50),
    "resized": resized,
    "cropped": cropped,
    "cropped by a tenth everywhere": lambda image, _: image.crop((5, 5, 43, 43)),
    "lighter": lighter,
    "cropped, lighter, quality 70": lambda image, rng: again(lighter(cropped(image, rng), rng), 70),
}


def sketched(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images])


def write(root: Path, pictures: dict[str, Image.Image]) -> Path:
    for name, image in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / f"{name}.png")
    return root


def load(root: Path, **options: object) -> Dataset:
    return load_data(root, image_size=64, **options)  # type: ignore[arg-type]


def three_splits(tmp_path: Path, name: str = "photos") -> Path:
    """Two classes, three pictures of each in each split, all different."""
    places = [f"{split}/{c}/{i}" for split in ("train", "val", "test") for c in "ab" for i in range(3)]
    return write(tmp_path / name, {place: scene(seed) for seed, place in enumerate(places)})


# what is found


@pytest.mark.parametrize("kind", CHANGES)
def test_nine_of_ten_pictures_that_were_saved_again_are_found(kind: str) -> None:
    rng, count = np.random.default_rng(0), 80
    known = [scene(seed) for seed in range(count)]
    changed = sketched([CHANGES[kind](image, rng) for image in known])
    for some, others in ((sketched(known), changed), (changed, sketched(known))):
        found = near_pairs(some, others)
        right = found[found[:, 0] == found[:, 1]]
        assert len(right) >= 0.9 * count
        assert len(found) == len(right)


def test_different_pictures_are_not_alike() -> None:
    assert len(near_pairs(sketched([scene(seed) for seed in range(1000)]))) == 0


def test_flat_pictures_are_not_all_alike() -> None:
    rng = np.random.default_rng(0)
    skies = []
    for _ in range(60):
        slope = np.linspace(rng.uniform(120, 140), rng.uniform(120, 140), 48)[:, None, None] + rng.uniform(-40, 40, 3)
        skies.append(Image.fromarray((slope + rng.normal(0, 2, (48, 48, 3))).clip(0, 255).astype(np.uint8)))
    blank = [Image.new("RGB", (48, 48), (value, value, value)) for value in (0, 1, 128, 254, 255)]
    assert len(near_pairs(sketched([*skies, *blank]))) == 0


def test_digits_of_one_class_are_not_alike() -> None:
    glyphs, _ = load_digits()
    pictures = [
        Image.fromarray((glyph * 15).astype(np.uint8)).resize((28, 28)).convert("RGB") for glyph in glyphs[:600]
    ]
    padded = [Image.new("RGB", (32, 32)) for _ in pictures]
    for frame, picture in zip(padded, pictures, strict=True):
        frame.paste(picture, (2, 2))
    found = near_pairs(sketched(padded))
    assert len(np.unique(found)) <= 3  # 8 x 8 pixels: some are the same number written the same way


def test_mirrored_and_turned_pictures_are_others() -> None:
    known = [scene(seed) for seed in range(40)]
    for turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90):
        assert len(near_pairs(sketched(known), sketched([image.transpose(turn) for image in known]))) == 0


def one_object(texture: int, shape: int = 0) -> Image.Image:
    """An object of one shape and colour on the background of all, with a surface of its own."""
    rng, shapes = np.random.default_rng(texture), np.random.default_rng(shape)
    row, column = np.mgrid[0:96, 0:96] / 96
    middle, radii = shapes.uniform(0.45, 0.55, 2), shapes.uniform(0.25, 0.32, 2)
    inside = (((row - middle[0]) / radii[0]) ** 2 + ((column - middle[1]) / radii[1]) ** 2 < 1)[..., None]
    surface = np.zeros((96, 96))
    for cells in (12, 24, 48):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        surface += (np.asarray(noise.resize((96, 96), Image.Resampling.BICUBIC), dtype=float) - 128) / 9
    background = (210 - 40 * row - 10 * column)[..., None] * np.array([1.0, 0.98, 0.95])
    object_ = np.array([150.0, 90.0, 60.0]) + surface[..., None]
    pixels = np.where(inside, object_, background) + rng.normal(0, 2, (96, 96, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def copies_of(some: Sequence[Image.Image], others: Sequence[Image.Image]) -> np.ndarray:
    both = tuple(as_set(images) for images in (some, others))
    return copies(both[0], sketches(both[0]), both[1], sketches(both[1]))


def as_set(images: Sequence[Image.Image]) -> ImageSet:
    labelled = [(image, number % 2) for number, image in enumerate(images)]
    return load_data((labelled, labelled), image_size=64).train


def test_different_objects_of_one_shape_on_one_background_are_not_copies() -> None:
    objects = [one_object(texture, shape) for shape in range(4) for texture in range(100 * shape, 100 * shape + 6)]
    drawn = sketches(as_set(objects))
    assert len(near_pairs(drawn)) > 20  # their sketches are alike
    assert len(copies(as_set(objects), drawn)) == 0


@pytest.mark.parametrize("kind", CHANGES)
def test_copies_of_objects_on_one_background_are_found_all_the_same(kind: str) -> None:
    rng = np.random.default_rng(0)
    known = [one_object(texture, texture) for texture in range(20)]
    size = known[0].width
    changed = [
        image.crop((size // 10, size // 10, size - size // 10, size - size // 10))
        if kind == "cropped by a tenth everywhere"
        else CHANGES[kind](image, rng)
        for image in known
    ]
    found = copies_of(known, changed)
    right = found[:, 0] == found[:, 1]
    assert right.sum() >= 18
    assert right.mean() >= 0.9  # pictures of half the size have hardly any details


@pytest.mark.parametrize("kind", CHANGES)
def test_the_closer_look_loses_hardly_a_copy(kind: str) -> None:
    rng, count = np.random.default_rng(0), 60
    known = [scene(seed) for seed in range(count)]
    changed = [CHANGES[kind](image, rng) for image in known]
    found = copies_of(known, changed)
    assert len(found[found[:, 0] == found[:, 1]]) >= 0.9 * count


# what is reported


def test_equal_and_nearly_equal_pictures_of_each_two_splits_are_told_apart(tmp_path: Path) -> None:
    root = three_splits(tmp_path)
    shutil.copy(root / "train/a/0.png", root / "val/b/0.png")
    shutil.copy(root / "train/a/1.png", root / "test/a/0.png")
    shutil.copy(root / "val/a/0.png", root / "test/a/1.png")
    again(Image.open(root / "train/b/0.png"), 70).save(root / "val/b/1.png")
    again(Image.open(root / "train/b/1.png"), 70).save(root / "test/b/0.png")
    again(Image.open(root / "val/a/1.png"), 70).save(root / "test/b/1.png")
    data = load(root)
    assert data.report.leaks == (
        ("train/a/0.png", "val/b/0.png"),
        ("train/a/1.png", "test/a/0.png"),
        ("val/a/0.png", "test/a/1.png"),
    )
    assert data.report.near_leaks == (
        ("train/b/0.png", "val/b/1.png"),
        ("train/b/1.png", "test/b/0.png"),
        ("val/a/1.png", "test/b/1.png"),
    )
    said = to_dict(DataRecord.of(data))
    assert said["near_leaks"] == [list(pair) for pair in data.report.near_leaks]
    lines = data_notes(said)
    assert any(line.startswith("3 images are in two splits") for line in lines)
    assert any(line.startswith("3 images are nearly equal") for line in lines)
    assert any("--fix-leaks" in line for line in lines)
    assert [warning.title.split(" of ")[1][:12] for warning in data_warnings(said)] == ["equal images", "nearly equal"]


def test_a_search_that_would_take_too_long_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = three_splits(tmp_path)
    again(Image.open(root / "train/b/1.png"), 70).save(root / "test/b/0.png")
    assert len(load(root).report.near_leaks) == 1
    monkeypatch.setattr(attngraft.data.leaks, "MOST_PAIRS", 107)  # 6 x 6 for each two of three splits are 108
    for options in ({}, {"fix_leaks": True}):
        report = load(root, **options).report
        assert report.near_leaks == ()
        assert any(note.startswith("images that are nearly equal were not looked for: ") for note in report.notes)


# what is changed


def test_without_the_option_no_split_changes(tmp_path: Path) -> None:
    root = three_splits(tmp_path)
    shutil.copy(root / "train/a/0.png", root / "test/a/0.png")
    assert load(root).test.ids == tuple(f"test/{c}/{i}.png" for c in "ab" for i in range(3))
    flat = write(tmp_path / "flat", {f"{c}/{i}": scene(i + 20 * (c == "b")) for c in "ab" for i in range(10)})
    shutil.copy(flat / "a/0.png", flat / "a/copy.png")
    again(Image.open(flat / "a/1.png"), 50).save(flat / "a/again.png")
    chosen = [name for name in load(flat).test.ids if name in {"a/1.png", "a/again.png"}]
    assert len(load(flat, fix_leaks=True).test.ids) > 0
    assert load(flat).test.ids == load(flat, fix_leaks=False).test.ids
    assert chosen == [name for name in load(flat).test.ids if name in {"a/1.png", "a/again.png"}]


def test_copies_move_to_the_side_of_training(tmp_path: Path) -> None:
    root = three_splits(tmp_path)
    shutil.copy(root / "train/a/0.png", root / "val/b/0.png")
    shutil.copy(root / "val/a/0.png", root / "test/a/1.png")
    again(Image.open(root / "train/b/1.png"), 70).save(root / "test/b/0.png")
    before, data = load(root), load(root, fix_leaks=True)
    assert data.val is not None
    assert {"val/b/0.png", "test/b/0.png"} <= set(data.train.ids)
    assert "test/a/1.png" in data.val.ids
    assert len(data.train) + len(data.val) + len(data.test) == 18
    assert (data.report.leaks, data.report.near_leaks) == ((), ())
    assert [note for note in data.report.notes if "moved there" in note] == [
        "1 val image repeats images of train and was moved there, so that no image is in both.",
        "1 test image repeats images of train and was moved there, so that no image is in both.",
        "1 test image repeats images of val and was moved there, so that no image is in both.",
    ]
    assert data.fingerprint != before.fingerprint
    assert data.train.labels[list(data.train.ids).index("val/b/0.png")] == 1


def test_copies_of_copies_move_too(tmp_path: Path) -> None:
    root = three_splits(tmp_path)
    wide = scene(900, 120)
    # each a crop of the one before; the last and the first have too little in common to be taken for copies
    for number, (place, margin) in enumerate((("train/a/0", 0), ("test/a/0", 10), ("test/b/0", 19), ("val/a/0", 26))):
        wide.crop((margin, margin, 120 - margin, 120 - margin)).save(root / f"{place}.png")
        assert number < 4
    ends = [Image.open(root / f"{place}.png") for place in ("train/a/0", "val/a/0")]
    assert len(near_pairs(sketched(ends[:1]), sketched(ends[1:]))) == 0
    data = load(root, fix_leaks=True)
    assert {"test/a/0.png", "test/b/0.png", "val/a/0.png"} <= set(data.train.ids)


def test_a_class_that_would_lose_its_images_is_refused_by_name(tmp_path: Path) -> None:
    root = three_splits(tmp_path)
    for number in range(3):
        again(Image.open(root / f"train/a/{number}.png"), 80).save(root / f"test/b/{number}.png")
    with pytest.raises(DataError, match="all test images of 'b' repeat images of train or val"):
        load(root, fix_leaks=True)
    assert len(load(root).report.near_leaks) == 3


def flat_set(root: Path, names: Sequence[int]) -> Path:
    """40 pictures in two classes, 16 of which are there three times: once as they are, saved again, and cropped."""
    rng, files = np.random.default_rng(5), {}
    for number in range(40):
        image, folder = scene(number), "ab"[number % 2]
        versions = [image, again(image, 60), cropped(image, rng)] if number < 16 else [image]
        for k, version in enumerate(versions):
            files[f"{folder}/{names[number * 3 + k]:03d}"] = version
    # the same picture under both classes
    files[f"a/{names[125]:03d}"] = again(scene(1), 75)
    return write(root, files)


def sides(data: Dataset) -> dict[str, str]:
    sets = {"train": data.train, "val": data.val, "test": data.test}
    return {digest: name for name, images in sets.items() if images for digest in images.pixel_hashes}


def test_families_stay_together_where_a_split_is_made_by_chance(tmp_path: Path) -> None:
    root = flat_set(tmp_path / "flat", range(126))
    assert len(load(root, val_fraction=0.2).report.near_leaks) > 0
    data = load(root, val_fraction=0.2, fix_leaks=True)
    assert (data.report.leaks, data.report.near_leaks) == ((), ())
    for images in (data.val, data.test):
        assert images is not None
        assert np.bincount(images.labels).min() >= 3


def test_the_sides_do_not_depend_on_the_names_of_files(tmp_path: Path) -> None:
    options = {"val_fraction": 0.2, "fix_leaks": True}
    one = load(flat_set(tmp_path / "one", range(126)), **options)
    other = load(flat_set(tmp_path / "other", np.random.default_rng(0).permutation(126).tolist()), **options)
    assert sides(one) == sides(other)
    assert one.train.ids != other.train.ids
    assert one.fingerprint == load(tmp_path / "one", **options).fingerprint
    assert sides(one) != sides(load(tmp_path / "one", split_seed=1, **options))


def test_a_run_finds_its_own_images_again(tmp_path: Path) -> None:
    root, run = flat_set(tmp_path / "flat", range(126)), tmp_path / "run"
    run_fit(small_model(2), root, run, recipe=short_recipe(1), fix_leaks=True, curve=False)
    said = json.loads((run / "run.json").read_text())
    assert said["data"]["origin"]["fix_leaks"] is True
    assert said["data"]["near_leaks"] == []
    assert own_test_images(run, said, Preprocessing(image_size=16)).fingerprint == said["data"]["fingerprint"]
    assert load_data(root, image_size=16).fingerprint != said["data"]["fingerprint"]
    with pytest.raises(RunError, match="has another data"):
        run_fit(small_model(2), root, run, recipe=short_recipe(1), curve=False)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_the_option_of_the_command_line(tmp_path: Path, verb: str) -> None:
    root = three_splits(tmp_path)
    again(Image.open(root / "train/b/1.png"), 70).save(root / "test/b/0.png")
    fixed = ["--image-size", "16", "--batch-size", "8", "--device", "cpu", "--precision", "fp32", "--epochs", "1"]
    command = [verb, str(root), "--backbone", "small-cnn", "--recipe", "scratch", *fixed]
    result = CliRunner().invoke(app, [*command, "--fix-leaks", "--run-dir", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "1 test image repeats images of train" in " ".join(result.stdout.split())
