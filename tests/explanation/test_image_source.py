"""The images that a model is looked at with: the same ones however they come, and as the model sees them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attngraft as ag
from attngraft.backbones import note_preprocessing_
from attngraft.config import Preprocessing
from attngraft.data import UNLABELLED, DataReport, Dataset, ImageSet, build_transform
from attngraft.data.pixel_store import decode_array
from attngraft.errors import ConfigError, DataError
from attngraft.explanation.image_source import view_of
from attngraft.surgery import note_classes_

CPU = torch.device("cpu")
CLASSES = ("red", "green", "blue")
PREPROCESSING = Preprocessing(
    image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), interpolation="bilinear", crop_pct=1.0
)


def image_set(count: int, labels: list[int] | None = None) -> ImageSet:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 18, 20, 3), dtype=np.uint8)
    decoded = decode_array(pixels, limit=100)
    found = np.arange(count) % 3 if labels is None else np.asarray(labels)
    ids = tuple(f"image {i}" for i in range(count))
    return ImageSet(ids, found.astype(np.int64), decoded.hashes, decoded.store, np.arange(count))


@pytest.fixture
def model() -> nn.Module:
    network = ag.create_backbone("small-cnn", num_classes=3)
    return note_classes_(note_preprocessing_(network, PREPROCESSING), CLASSES)


def all_inputs(view, **options) -> torch.Tensor:
    return torch.cat([inputs for inputs, _ in view.batches(CPU, **options)])


def expected_inputs(images: ImageSet, preprocessing: Preprocessing = PREPROCESSING) -> torch.Tensor:
    transform = build_transform("none", preprocessing, train=False)
    return torch.stack([transform(images.image(i)) for i in range(len(images))])


# --- going through the images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 10, 64])
def test_batches_hold_every_image_once_and_in_order(model, size):
    images = image_set(10)
    view = view_of(model, images)
    for _ in range(2):  # any number of times
        batches = list(view.batches(CPU, size=size))
        assert [len(inputs) for inputs, _ in batches] == [len(p) for _, p in batches]
        assert max(len(inputs) for inputs, _ in batches) == min(size, 10)
        assert np.concatenate([positions for _, positions in batches]).tolist() == list(range(10))
        torch.testing.assert_close(torch.cat([inputs for inputs, _ in batches]), expected_inputs(images))


@pytest.mark.parametrize("size", [1, 4, 64])
def test_prepared_inputs_are_passed_on_as_they_are(model, size):
    tensor = torch.randn(5, 3, 8, 8)
    view = view_of(model, tensor)
    assert torch.equal(all_inputs(view, size=size), tensor)
    positions = np.concatenate([found for _, found in view.batches(CPU, size=size)])
    assert positions.tolist() == list(range(5))
    assert (view.ids, view.labels.tolist()) == (tuple("01234"), [UNLABELLED] * 5)
    assert view.classes == CLASSES


def test_inputs_are_in_the_type_of_the_weights(model):
    view = view_of(model, image_set(5))
    single = all_inputs(view)
    inputs, positions = zip(*view.inputs(model.to(torch.bfloat16), size=2), strict=True)
    assert {part.dtype for part in inputs} == {torch.bfloat16}
    assert torch.equal(torch.cat(inputs), single.to(torch.bfloat16))
    assert np.concatenate(positions).tolist() == list(range(5))


def test_a_model_without_weights_gets_single_precision(model):
    view = view_of(model, image_set(2))
    assert next(view.inputs(nn.Flatten()))[0].dtype == torch.float32


def test_going_through_the_images_draws_no_random_number(model):
    view = view_of(model, image_set(5))
    before = torch.random.get_rng_state()
    all_inputs(view)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_size_of_the_input_can_be_another_one(model):
    view = view_of(model, image_set(3), image_size=12)
    assert all_inputs(view).shape == (3, 3, 12, 12)
    torch.testing.assert_close(all_inputs(view), expected_inputs(image_set(3), replace(PREPROCESSING, image_size=12)))


@pytest.mark.parametrize("source", [image_set(6), torch.randn(6, 3, 16, 16)], ids=["images", "tensor"])
def test_one_input_is_that_of_its_batch(model, source):
    view = view_of(model, source)
    for position in (0, 5):
        assert torch.equal(view.input(position), all_inputs(view)[position])


# --- choosing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [image_set(8), torch.randn(8, 3, 16, 16)], ids=["images", "tensor"])
def test_chosen_images_come_in_the_order_asked_for(model, source):
    view = view_of(model, source)
    for positions in ([5, 2, 2], np.array([5, 2, 2]), iter([5, 2, 2])):
        some = view.select(positions)
        assert some.ids == tuple(view.ids[i] for i in (5, 2, 2))
        assert some.labels.tolist() == view.labels[[5, 2, 2]].tolist()
        assert torch.equal(all_inputs(some), all_inputs(view)[[5, 2, 2]])
        assert len(some) == 3


@pytest.mark.parametrize("count", range(1, 13))
def test_some_are_evenly_spread_and_never_twice(model, count):
    view = view_of(model, image_set(12))
    chosen = [view.ids.index(name) for name in view.some(count).ids]
    assert len(set(chosen)) == count
    gaps = np.diff(chosen)
    assert chosen[0] == 0
    if count > 1:
        assert chosen[-1] == 11
        assert gaps.max() - gaps.min() <= 1


def test_more_than_there_are_are_all(model):
    view = view_of(model, image_set(4))
    assert view.some(4) is view.some(99) is view


@pytest.mark.parametrize("count", [0, -2])
def test_less_than_one_image_is_refused(model, count):
    with pytest.raises(ConfigError, match=f"number of images is {count}"):
        view_of(model, image_set(4)).some(count)


# --- labels ------------------------------------------------------------------------------------------------------


def test_labels_are_required_where_they_are_needed(model):
    view_of(model, image_set(4)).require_labels("folding")
    for source in (torch.randn(2, 3, 16, 16), image_set(3, [0, UNLABELLED, 1])):
        view = view_of(model, source)
        assert not view.is_labelled
        with pytest.raises(DataError, match="folding needs labels, and these images have none: give a folder"):
            view.require_labels("folding")


def data_set(classes: tuple[str, ...] = CLASSES) -> Dataset:
    return Dataset("squares", classes, image_set(6), None, image_set(5), DataReport(), "f")


def test_of_a_data_set_the_test_images_are_taken_in_the_order_of_the_model(model):
    view = view_of(model, data_set(("blue", "red", "green")))
    assert view.labels.tolist() == [2, 0, 1, 2, 0]
    assert view.classes == CLASSES
    torch.testing.assert_close(all_inputs(view), expected_inputs(image_set(5)))


def test_a_model_that_does_not_know_its_classes_takes_those_of_the_data_set(model):
    view = view_of(note_classes_(model, ()), data_set(("x", "y", "z")))
    assert view.classes == ("x", "y", "z")
    assert view.labels.tolist() == [0, 1, 2, 0, 1]


def test_a_data_set_of_other_classes_is_refused(model):
    with pytest.raises(DataError, match="does not know"):
        view_of(model, data_set(("red", "green", "yellow")))


def test_a_split_with_labels_that_the_model_does_not_have_is_refused(model):
    with pytest.raises(DataError, match="labels up to 7 for a model of 3 classes"):
        view_of(model, image_set(2, [0, 7]))
    assert view_of(note_classes_(model, ()), image_set(2, [0, 7])).labels.tolist() == [0, 7]


# --- sources -----------------------------------------------------------------------------------------------------


def test_a_folder_is_read_as_the_model_needs_it(model, tmp_path: Path):
    for name in ("green", "red"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (30, 24), name).save(tmp_path / name / "0.png")
    (tmp_path / "red/broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"red/broken.png"):
        view_of(model, tmp_path)
    view = view_of(model, tmp_path, skip_broken=True)
    assert view.ids == ("green/0.png", "red/0.png")
    assert view.labels.tolist() == [1, 0]
    red = all_inputs(view)[1].mean((1, 2))
    torch.testing.assert_close(
        red, (torch.tensor([1.0, 0, 0]) - torch.tensor(PREPROCESSING.mean)) / torch.tensor(PREPROCESSING.std)
    )
    assert view_of(model, str(tmp_path), limit=1).ids == ("green/0.png",)


def test_a_compiled_model_wants_what_the_model_wants(model):
    view = view_of(torch.compile(model, backend="eager"), image_set(2))
    assert (view.classes, view.preprocessing) == (CLASSES, PREPROCESSING)
    assert next(view.inputs(torch.compile(model, backend="eager")))[0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(0, 3, 8, 8), torch.zeros(3, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)], ids=str
)
def test_tensors_that_are_no_prepared_images_are_refused(model, tensor):
    with pytest.raises(DataError, match=r"got a tensor .*expected prepared images"):
        view_of(model, tensor)


@pytest.mark.parametrize("source", [image_set(3).select([]), [], None, 3])
def test_no_images_are_refused(model, source):
    with pytest.raises(DataError, match=r"^got "):
        view_of(model, source)
