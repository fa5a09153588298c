"""What a run has kept for its test images, `predict` finds again, wherever the images come from."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

import attngraft as ag
from attngraft.data import load_data, load_domains
from attngraft.data.digits import render_splits
from attngraft.errors import ConfigError, DataError
from attngraft.explanation import view_of
from attngraft.training import Evaluation

SIDE = 90  # more than an input of 16 is stored at
TRAINING: dict[str, Any] = {"recipe": "one-cycle", "epochs": 1, "image_size": 16, "batch_size": 8, "workers": 0}


def noise(seed: int, side: int = SIDE) -> np.ndarray:
    """Smooth noise (side, side + 10, 3): what shrinking in two steps changes."""
    rng = np.random.default_rng(seed)
    return (rng.random((side, side + 10, 3)) * 255 * rng.random()).astype(np.uint8)


def folder_of(root: Path, write: Callable[[Path, np.ndarray], None], suffix: str = ".png") -> Path:
    for split, count in (("train", 8), ("test", 5)):
        for number, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                seed = 1000 * number + 100 * (split == "test") + i
                write(root / split / name / f"{i}{suffix}", noise(seed))
    return root


def rgb(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def deep(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray((pixels[:, :, 0].astype(np.uint16) * 257)[:, :]).save(path)


def floats(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[:, :, 0].astype(np.float32) / 255).save(path)


def bands(path: Path, pixels: np.ndarray) -> None:
    np.save(path, np.concatenate([pixels, pixels[:, :, :2]], axis=2).astype(np.uint16) * 200)


def network(channels: int = 3, classes: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return ag.create_backbone("small-cnn", num_classes=classes, in_channels=channels)


def trained(tmp_path: Path, data: Any, channels: int = 3, classes: int = 2, **options: Any) -> Path:
    ag.fit(network(channels, classes), data, run_dir=tmp_path / "run", **{"precision": "fp32"} | TRAINING | options)
    return tmp_path / "run"


def check_equal(run: Path, images: Any, **options: Any) -> None:
    """Bit for bit with the batches of the evaluation, and to 1e-5 with others."""
    kept = Evaluation.read(run / "predictions.safetensors")
    found = ag.predict(run, images, batch_size=64, **options)
    np.testing.assert_array_equal(found.probabilities, kept.probabilities)
    np.testing.assert_allclose(ag.predict(run, images, batch_size=3).probabilities, kept.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("write", "suffix", "channels"),
    [
        pytest.param(rgb, ".png", 3, id="rgb"),
        pytest.param(rgb, ".jpg", 3, id="jpeg", marks=pytest.mark.slow),
        pytest.param(deep, ".png", 3, id="16-bit"),
        pytest.param(floats, ".tif", 3, id="float", marks=pytest.mark.slow),
        pytest.param(deep, ".tif", 1, id="16-bit-grey"),
        pytest.param(bands, ".npy", 5, id="bands"),
    ],
)
def test_the_test_files_of_a_folder(tmp_path: Path, write: Any, suffix: str, channels: int) -> None:
    root = folder_of(tmp_path / "data", write, suffix)
    check_equal(trained(tmp_path, root, channels), root / "test")


@pytest.mark.parametrize("precision", [pytest.param("auto", marks=pytest.mark.slow), "fp32+contiguous", "bf16"])
def test_the_number_format_is_that_of_the_run(tmp_path: Path, precision: str) -> None:
    root = folder_of(tmp_path / "data", rgb)
    run = trained(tmp_path, root, precision=precision)
    kept = Evaluation.read(run / "predictions.safetensors").probabilities
    np.testing.assert_array_equal(ag.predict(run, root / "test", batch_size=64).probabilities, kept)


@pytest.mark.parametrize("resize", ["squash", pytest.param("pad", marks=pytest.mark.slow)])
def test_a_rectangle_and_other_ways_of_resizing(tmp_path: Path, resize: str) -> None:
    root = folder_of(tmp_path / "data", rgb)
    check_equal(trained(tmp_path, root, resize=resize, image_size=(16, 24)), root / "test")


def test_the_images_of_a_table(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", rgb)
    files = sorted(root.glob("*/*/*.png"))
    lines = [f"{f.relative_to(root).as_posix()},{f.parent.name},{f.parent.parent.name}" for f in files]
    (root / "all.csv").write_text("path,label,split\n" + "\n".join(lines) + "\n")
    run = trained(tmp_path, root / "all.csv")
    ids = Evaluation.read(run / "predictions.safetensors").ids
    check_equal(run, [root / name for name in ids])


def test_a_data_set_of_torchvision(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", rgb)
    parts = tuple(ImageFolder(root / split) for split in ("train", "test"))
    run = trained(tmp_path, parts)
    check_equal(run, [image for image, _ in parts[1]])


def test_a_domain(tmp_path: Path) -> None:
    for name in ("photo", "sketch"):
        folder_of(tmp_path / "data" / name, rgb)
    sets = load_domains(tmp_path / "data", image_size=16).datasets
    check_equal(trained(tmp_path, sets["sketch"]), tmp_path / "data" / "sketch" / "test")


def test_the_built_in_digits(tmp_path: Path) -> None:
    run = trained(tmp_path, "cluttered-digits", classes=10, limit=20)
    ids = Evaluation.read(run / "predictions.safetensors").ids
    digits = render_splits(seed=0, val_count=0, choose=lambda _, __, names: np.flatnonzero(np.isin(names, ids)))
    by_name = dict(zip(digits.ids, digits.images, strict=True))
    check_equal(run, [by_name[name] for name in ids])


def test_a_data_set_that_was_loaded_for_larger_inputs(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", rgb)
    dataset = load_data(root, image_size=48)
    run = trained(tmp_path, dataset)
    check_equal(run, root / "test")
    check_equal(run, dataset)
    kept = Evaluation.read(run / "predictions.safetensors").probabilities
    np.testing.assert_array_equal(ag.predict(run, dataset.test, batch_size=64).probabilities, kept)
    assert torch.equal(view_of(ag.load(run), root).input(0), view_of(ag.load(run), dataset).input(0))
    trained(tmp_path, dataset)  # and the run goes on
    other = ag.fit(ag.load(run), root, run_dir=tmp_path / "next", precision="fp32", **TRAINING)
    kept = other.evaluation.probabilities
    assert np.array_equal(ag.predict(tmp_path / "next", root / "test", batch_size=64).probabilities, kept)


# --- one image in many forms -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return network().eval()


def forms(path: Path) -> dict[str, Any]:
    image = Image.open(path)
    array = np.array(image)
    frozen = array.copy()
    frozen.flags.writeable = False
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "stream": io.BytesIO(path.read_bytes()),
        "pil": image,
        "array": array,
        "read-only": frozen,
        "backwards": array[:, ::-1][:, ::-1],
        "channels first": array.transpose(2, 0, 1),
        "float array": array / 255,
        "float32 array": (array / 255).astype(np.float32),
        "tensor": tensor,
        "float tensor": tensor / 255,
        "requires grad": (tensor / 255).requires_grad_(),
        "channels last tensor": torch.from_numpy(array),
        "transparent array": np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
        "transparent tensor": torch.cat([tensor, torch.full((1, *tensor.shape[1:]), 255, dtype=torch.uint8)]),
        "hugging face": {"bytes": path.read_bytes(), "path": None},
    }


def test_one_image_has_one_prediction_whatever_holds_it(tmp_path: Path, model: torch.nn.Module) -> None:
    rgb(tmp_path / "a.png", noise(3))
    wanted = ag.predict(model, tmp_path / "a.png").probabilities
    for name, form in forms(tmp_path / "a.png").items():
        found = ag.predict(model, form)
        np.testing.assert_array_equal(found.probabilities, wanted, err_msg=name)
    everything = list(forms(tmp_path / "a.png").values())
    assert np.allclose(ag.predict(model, everything).probabilities, wanted, atol=1e-6)


def test_grey_images_in_many_forms(tmp_path: Path, model: torch.nn.Module) -> None:
    grey = noise(4)[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    wanted = ag.predict(model, tmp_path / "a.png").probabilities
    for form in (grey, grey[:, :, None], torch.from_numpy(grey), torch.from_numpy(grey)[None], Image.fromarray(grey)):
        np.testing.assert_array_equal(ag.predict(model, form).probabilities, wanted)
    opaque = np.dstack([grey, np.full_like(grey, 255)])
    np.testing.assert_array_equal(ag.predict(model, opaque).probabilities, wanted)
    black = ag.predict(model, [np.zeros((20, 20), bool), np.zeros((20, 20), np.uint8)]).probabilities
    np.testing.assert_array_equal(black[0], black[1])


def test_colours_become_luma_for_a_model_of_grey_images(tmp_path: Path) -> None:
    grey_model = network(channels=1).eval()
    rgb(tmp_path / "a.png", noise(5))
    wanted = ag.predict(grey_model, tmp_path / "a.png").probabilities
    for form in (noise(5), torch.from_numpy(noise(5)).permute(2, 0, 1)):
        np.testing.assert_array_equal(ag.predict(grey_model, form).probabilities, wanted)


def test_a_batch_is_as_many_images_as_it_holds(model: torch.nn.Module) -> None:
    batch = np.stack([noise(i) for i in range(3)])
    wanted = ag.predict(model, list(batch))
    assert wanted.ids == ("0", "1", "2")
    for form in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2), iter(batch)):
        np.testing.assert_array_equal(ag.predict(model, form).probabilities, wanted.probabilities)


def test_files_and_images_may_be_mixed(tmp_path: Path, model: torch.nn.Module) -> None:
    rgb(tmp_path / "a.png", noise(0))
    found = ag.predict(model, [noise(1), tmp_path / "a.png", np.array([str(tmp_path / "a.png")])[0]])
    assert found.ids == ("0", str(tmp_path / "a.png"), str(tmp_path / "a.png"))
    assert len(ag.predict(model, np.array([str(tmp_path / "a.png")] * 2)).ids) == 2


def test_an_upright_image_is_the_same_in_every_form(tmp_path: Path, model: torch.nn.Module) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(6)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    wanted = ag.predict(model, tmp_path / "a.jpg").probabilities
    turned = np.array(Image.open(tmp_path / "a.jpg").transpose(Image.Transpose.ROTATE_270))
    with Image.open(tmp_path / "a.jpg") as opened:
        for form in (opened, (tmp_path / "a.jpg").read_bytes(), turned):
            np.testing.assert_array_equal(ag.predict(model, form).probabilities, wanted)
        assert opened.getexif()[0x0112] == 6  # what was given is not changed


REFUSED = {
    "address": ("https://example.org/cat.jpg", "nothing is downloaded"),
    "data address": ("data:image/png;base64,AAAA", "nothing is downloaded"),
    "normalised": (torch.randn(3, 8, 8), "before they are normalised"),
    "0 to 255 floats": (np.full((8, 8, 3), 200.0), "expected 0 to 1"),
    "whole numbers": (np.full((8, 8, 3), 200), "expected uint8, uint16 or floats"),
    "not finite": (np.full((8, 8, 3), np.nan), "not finite"),
    "two channels of floats": (np.zeros((8, 8, 2)), "expected height x width x 3"),
    "no pixels": (np.zeros((0, 8, 3), np.uint8), "its shape is 0 x 8 x 3"),
    "five axes": (np.zeros((1, 1, 3, 8, 8), np.uint8), "its shape is 1 x 1 x 3 x 8 x 8"),
    "number": (7, "the image is int, expected a path"),
    "pair": ([(np.zeros((8, 8, 3), np.uint8), 1)], "the image is tuple, expected a path"),
    "dict": ({"image": 1}, "the image is dict, expected a path"),
    "nothing": (None, "the image is NoneType"),
    "empty list": ([], "got no images"),
    "empty bytes": (b"", "the file is empty"),
    "other bytes": (b"<html>", "not in a known image format"),
    "no path": ("", "the path is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_in_one_sentence(name: str, model: torch.nn.Module) -> None:
    image, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        ag.predict(model, image)
    assert str(caught.value).count("\n") == 0


def test_a_broken_image_among_others_is_left_out_by_its_position(model: torch.nn.Module) -> None:
    found = ag.predict(model, [noise(0), b"<html>", noise(1)], skip_broken=True)
    assert found.ids == ("0", "2")
    assert found.skipped[0][0] == "1"


def test_a_model_is_in_its_own_mode_afterwards(model: torch.nn.Module) -> None:
    training = network().train()
    ag.predict(training, noise(0))
    assert training.training


def test_an_unknown_number_format_is_said(model: torch.nn.Module) -> None:
    with pytest.raises(ConfigError, match="unknown precision"):
        ag.predict(model, noise(0), precision="fp17")


def test_a_run_of_another_kind_of_device_is_predicted_in_full_precision(tmp_path: Path) -> None:
    from attngraft.deployment.predict import precision_of
    from attngraft.training import RunFolder

    root = folder_of(tmp_path / "data", rgb)
    run = trained(tmp_path, root, precision="bf16")
    folder = RunFolder(run)
    record = folder.read()
    assert str(precision_of(run, torch.device("cpu"))) == "bf16+channels_last"
    folder.finish(replace(record, hardware={**record.hardware, "gpu": "H200"}))
    assert str(precision_of(run, torch.device("cpu"))) == "fp32+channels_last"
    assert str(precision_of(run, torch.device("cuda"))) == "bf16+channels_last"
