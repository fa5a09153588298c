"""Backbones for 1, 4 and 12 channels: created, adapted as timm adapts, grafted, saved and loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import attngraft as ag
from attngraft.backbones import backbone_info, preprocessing_of, preprocessing_source
from attngraft.backbones.channels import adapt_input_, adapted_weight, input_channels
from attngraft.config import Preprocessing
from attngraft.errors import BackboneError

SPECS = ["small-cnn", "resnet20-32", "timm:test_resnet", "torchvision:squeezenet1_1"]
each_spec = pytest.mark.parametrize("spec", SPECS)
each_count = pytest.mark.parametrize("channels", [1, 4, 12])


@each_spec
@each_count
def test_every_source_makes_backbones_for_other_channels(tmp_path, spec, channels):
    model = ag.create_backbone(spec, num_classes=3, in_channels=channels, pretrained=False)
    assert preprocessing_of(model).channels == len(preprocessing_of(model).mean) == channels
    grown = ag.graft(model, "eca").eval()
    images = torch.rand(2, channels, 64, 64)
    expected = grown(images)
    assert expected.shape == (2, 3)
    loaded = ag.load(ag.save(grown, tmp_path / "model.safetensors"))
    assert torch.equal(loaded(images), expected)
    assert backbone_info(loaded) == backbone_info(grown)


@each_spec
def test_three_channels_are_the_network_that_was_always_made(tmp_path, spec):
    torch.manual_seed(0)
    usual = ag.create_backbone(spec, pretrained=False)
    torch.manual_seed(0)
    named = ag.create_backbone(spec, in_channels=3, pretrained=False)
    assert all(torch.equal(a, b) for a, b in zip(usual.state_dict().values(), named.state_dict().values(), strict=True))
    with safe_open(ag.save(named, tmp_path / "model.safetensors"), "pt") as file:
        header = json.loads(file.metadata()["attngraft"])
    assert "channels" not in json.dumps(header["backbone"])  # earlier versions read it


@each_count
def test_weights_are_adapted_as_timm_does(channels):
    from timm.models import adapt_input_conv

    weight = torch.randn(8, 3, 3, 3)
    torch.testing.assert_close(adapted_weight(weight, channels), adapt_input_conv(channels, weight))


@pytest.mark.parametrize("channels", [1, 12])
def test_equal_channels_mean_the_same_however_many_there_are(channels):
    torch.manual_seed(0)
    usual = ag.create_backbone("small-cnn").eval()
    torch.manual_seed(0)
    other = ag.create_backbone("small-cnn", in_channels=channels).eval()
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(other(grey.expand(-1, channels, -1, -1)), usual(grey.expand(-1, 3, -1, -1)))


def test_a_file_of_weights_for_colours_is_adapted_and_one_for_these_channels_is_not(tmp_path):
    colours = ag.create_backbone("small-cnn")
    torch.save(colours.state_dict(), tmp_path / "rgb.pth")
    model = ag.create_backbone("small-cnn", in_channels=4, weights=tmp_path / "rgb.pth")
    assert torch.equal(model.block1[0].weight, adapted_weight(colours.block1[0].weight.detach(), 4))
    torch.save(model.state_dict(), tmp_path / "four.pth")
    again = ag.create_backbone("small-cnn", in_channels=4, weights=tmp_path / "four.pth")
    assert torch.equal(again.block1[0].weight, model.block1[0].weight)


def test_a_run_keeps_its_channels_as_a_backbone_and_can_be_given_others(tmp_path):
    path = str(ag.save(ag.create_backbone("small-cnn", in_channels=4), tmp_path / "model.safetensors"))
    assert preprocessing_of(ag.create_backbone(path, pretrained=False)).channels == 4
    other = ag.create_backbone(path, in_channels=6, pretrained=False)
    assert other(torch.zeros(1, 6, 32, 32)).shape == (1, 10)
    assert preprocessing_of(other).channels == 6


@pytest.mark.parametrize("count", [0, -3, 100_000])
def test_a_senseless_number_of_channels_is_refused(count):
    with pytest.raises(BackboneError, match=f"in_channels is {count}: expected 1 to 1,024"):
        ag.create_backbone("small-cnn", in_channels=count)


def test_networks_that_convert_colours_themselves_no_longer_do():
    with torch.device("meta"):
        model = ag.create_backbone("torchvision:googlenet", in_channels=2, pretrained=False)
    assert model.transform_input is False
    assert model.eval()(torch.zeros(1, 2, 64, 64, device="meta")).shape == (1, 1000)


def test_preprocessing_comes_from_the_configuration_of_a_timm_model_that_was_built_elsewhere():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=2)
    found = preprocessing_of(model)
    assert (found.mean, found.std, found.crop_pct) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.9)
    assert "pretrained_cfg" in preprocessing_source(model)
    assert preprocessing_of(timm.create_model("test_resnet", in_chans=1)).mean == (0.5,)


def test_a_model_that_says_nothing_has_imagenets_values_for_its_channels():
    model = nn.Sequential(nn.Conv2d(5, 8, 3), nn.Conv2d(8, 8, 1))
    assert input_channels(model) == 5
    assert preprocessing_of(model) == Preprocessing().with_channels(5)
    assert "ImageNet" in preprocessing_source(model)
    assert input_channels(nn.Sequential(nn.Linear(2, 2))) == 3
    head_first = nn.ModuleDict({"head": nn.Conv2d(64, 10, 1), "body": nn.Conv2d(3, 64, 3)})
    assert input_channels(head_first) == 3
    noted = ag.create_backbone("small-cnn")
    assert preprocessing_source(noted) is None


@pytest.mark.parametrize("channels", [1, 3, 4, 48])
@pytest.mark.parametrize("fold", [1, 2, 4])
def test_stems_that_fold_pixels_into_channels_are_seen_through(channels, fold):
    stem = [nn.PixelUnshuffle(fold)] if fold > 1 else []
    inputs = channels * fold**2
    model = nn.Sequential(*stem, nn.Conv2d(inputs, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    expected = 3 if (fold, channels) == (1, 48) else channels  # RGB folded by a function looks the same
    assert input_channels(model) == expected
    assert adapt_input_(model, channels) is model
    if fold > 1:
        with pytest.raises(BackboneError, match="cannot be given 5 channels"):
            adapt_input_(model, 5)
    else:
        assert adapt_input_(model, 5)[0].weight.shape == (8, 5, 3, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_folding_stem_of_timm_is_seen_through(channels):
    import timm

    with torch.device("meta"):
        model = timm.create_model("tresnet_m", in_chans=channels)
    assert input_channels(model) == preprocessing_of(model).channels == channels


@each_count
def test_images_of_other_channels_are_trained_on_saved_and_predicted(tmp_path, channels):
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(level - 30, level + 30, (32, 32, channels)).astype(np.uint8)
                np.save(folder / f"{number}.npy", image)
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=2, in_channels=channels), "se")
    result = ag.fit(
        model, tmp_path / "data", recipe="one-cycle", epochs=1, batch_size=8, run_dir=tmp_path / "run", device="cpu",
        precision="fp32+contiguous", workers=0, augment="none",
    )  # fmt: skip
    assert len(result.evaluation.labels) == 12
    images = torch.rand(2, channels, 32, 32)
    assert torch.equal(ag.load(tmp_path / "run")(images), result.model(images))
    predicted = ag.predict(tmp_path / "run", tmp_path / "data" / "test" / "dark")
    assert len(predicted.rows["probabilities"]) == 6
