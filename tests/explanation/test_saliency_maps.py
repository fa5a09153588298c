"""Maps from gates and from Grad-CAM, against their definitions, and the model as it was."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from planted import PATCH, Interrupting, assert_untouched, planted_images, planted_inputs, planted_model, state_of
from torch import nn
from torch.nn import functional as F

import attngraft as ag
from attngraft.errors import ConfigError, GraftError
from attngraft.explanation.image_source import view_of
from attngraft.explanation.saliency_maps import cam_maps, combined_gate_map, gate_maps, last_stage
from attngraft.surgery import watching

POSITIONAL = {"spatial", "rows", "columns", "full"}


def small(attention: str | None = None, seed: int = 0, **options) -> nn.Module:
    """A small network in eval mode whose grafts, where it has some, do something."""
    torch.manual_seed(seed)
    model = ag.create_backbone("small-cnn", num_classes=4)
    if attention is not None:
        model = ag.graft(model, attention, input_size=(3, 32, 32), **options)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for graft in ag.grafts(model).values():
                for parameter in graft.parameters():
                    parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def noise(count: int, side: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def seen_gates(model: nn.Module, inputs: torch.Tensor) -> dict:
    seen = {}
    with torch.no_grad(), watching(model, lambda path, x, gates: seen.update({path: (x, gates)})):
        model(inputs)
    return seen


# --- maps from gates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ag.attentions())
def test_every_attention_with_positions_has_maps_and_the_others_none(name):
    model = small(name)
    found = gate_maps(model, noise(3))
    if not POSITIONAL & set(next(iter(ag.grafts(model).values())).parts):
        assert found == {}
        return
    assert list(found) == list(ag.grafts(model))
    for path, (x, gates) in seen_gates(model, noise(3)).items():
        assert found[path].shape == (3, *x.shape[2:])
        assert found[path].dtype == np.float32
        assert np.ptp(found[path], axis=(1, 2)).min() > 0
        attention = ag.grafts(model)[path]
        with torch.no_grad():  # by how much a map of ones is weighed, up to a factor per image
            weighed = attention.apply_gates(torch.ones_like(x), gates).mean(1).numpy()
        ratio = found[path] / weighed
        if name not in {"coord"}:  # there, channel means of products
            assert np.allclose(ratio, ratio.mean((1, 2), keepdims=True), rtol=1e-4)


def test_a_spatial_gate_is_its_own_map_and_strips_are_multiplied():
    model = small("cbam")
    for path, (_, gates) in seen_gates(model, noise(5)).items():
        assert np.array_equal(gate_maps(model, noise(5))[path], gates.spatial.numpy())
    model = small("coord")
    for path, (_, gates) in seen_gates(model, noise(5)).items():
        expected = (gates.rows[..., None] * gates.columns[..., None, :]).mean(1)
        assert np.allclose(gate_maps(model, noise(5))[path], expected.numpy(), atol=1e-5)


def test_batches_do_not_matter_and_images_come_in_any_form():
    model = planted_model()
    view = view_of(model, planted_images(70))
    found = gate_maps(model, view)["stem"]
    assert found.shape == (70, 32, 32)
    assert np.array_equal(found, gate_maps(model, planted_images(70))["stem"])
    assert np.allclose(found[65:], gate_maps(model, planted_inputs(70)[65:])["stem"], atol=1e-6)


def test_a_plain_model_has_no_gate_maps():
    assert gate_maps(small(), noise(1)) == {}
    assert combined_gate_map({}, (8, 8)) is None


def test_a_planted_detector_of_bright_places_looks_at_them():
    images = planted_images(50)
    (found,) = gate_maps(planted_model(), images).values()
    for image, (x0, y0, x1, y1) in zip(found, images.boxes.astype(int), strict=True):
        assert image[y0:y1, x0:x1].min() > image.max() / 2
        image[y0:y1, x0:x1] = 0
        assert image.max() < 0.5


def test_combining_by_hand():
    first = np.array([[[0.0, 2.0], [0.0, 2.0]], [[5.0, 5.0], [5.0, 5.0]]], dtype=np.float32)
    second = np.array([[[3.0]], [[4.0]]], dtype=np.float32)  # constant: counts as 0
    found = combined_gate_map({"a": first, "b": second}, (2, 2))
    assert found.tolist() == [[[-0.5, 0.5], [-0.5, 0.5]], [[0, 0], [0, 0]]]
    assert combined_gate_map({"a": first}, (2, 4))[0].tolist() == [[-1, -0.5, 0.5, 1]] * 2  # bilinear


def test_combining_forgets_the_scale_of_each_site_but_not_its_sign():
    maps = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    alone = combined_gate_map({"a": maps}, (8, 8))
    assert np.allclose(combined_gate_map({"a": 0.01 * maps + 7, "b": 100 * maps}, (8, 8)), alone, atol=1e-3)
    assert np.allclose(combined_gate_map({"a": -maps}, (8, 8)), -alone, atol=1e-6)


def test_rounding_is_not_blown_up_to_a_map():
    nearly = np.full((1, 4, 4), 1.0, dtype=np.float32)
    nearly[0, 0, 0] = np.nextafter(np.float32(1), np.float32(2))
    assert not combined_gate_map({"a": nearly}, (4, 4)).any()


# --- Grad-CAM ----------------------------------------------------------------------------------------------------


def grad_cam_by_hand(model: nn.Module, path: str, inputs: torch.Tensor, targets: np.ndarray) -> np.ndarray:
    """Weights are mean gradients, the map is the positive part of the weighted sum."""
    kept = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda m, a, output: kept.append(output.clone()) or kept[0]
    )
    logits = model(inputs)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[torch.arange(len(inputs)), torch.from_numpy(targets)].sum(), kept[0])
    cam = F.relu((gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True)).detach()
    return F.interpolate(cam, inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0].numpy()


def unit(maps: np.ndarray) -> np.ndarray:
    """From 0 to 1 per image."""
    shifted = maps - maps.min((1, 2), keepdims=True)
    return shifted / np.maximum(shifted.max((1, 2), keepdims=True), 1e-30)


@pytest.mark.parametrize("attention", [None, "cbam", "se"])
def test_grad_cam_is_what_it_is_by_hand(attention):
    model, inputs, targets = small(attention), noise(5), np.array([0, 1, 2, 3, 0])
    found = cam_maps(model, inputs, targets)
    assert found.shape == (5, 32, 32)
    assert found.dtype == np.float32
    path = last_stage(model, inputs)
    assert np.allclose(unit(found), unit(grad_cam_by_hand(model, path, inputs, targets)), atol=1e-4)
    assert found.max() > 0.5


def test_the_answer_of_the_model_is_explained_where_no_class_is_named():
    model, inputs = small("cbam"), noise(5)
    with torch.no_grad():
        targets = model(inputs).argmax(1)
    assert np.array_equal(cam_maps(model, inputs), cam_maps(model, inputs, targets.tolist()))


def test_batches_do_not_matter_to_grad_cam():
    model, inputs = small("cbam"), noise(66)
    assert np.allclose(cam_maps(model, inputs)[64:], cam_maps(model, inputs[64:]), atol=1e-4)


class InPlace(nn.Module):
    """What the last stage returned is changed afterwards."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.features(x), inplace=True).mean((2, 3)))


def test_work_in_place_behind_the_stage_changes_nothing():
    class Copying(InPlace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(F.relu(self.features(x)).mean((2, 3)))

    found, expected = (cam_maps(kind().eval(), noise(4)) for kind in (InPlace, Copying))
    assert np.array_equal(found, expected)
    assert found.max() > 0.5


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("torchvision:resnet18", "layer4.1"),
        ("timm:resnet18", "layer4.1"),
        ("torchvision:mobilenet_v3_small", "features.12.2"),
    ],
)
def test_the_last_stage_of_known_networks(spec, path):
    model = ag.create_backbone(spec, num_classes=3, pretrained=False)
    assert last_stage(model, noise(1, 64)) == path
    found = cam_maps(model, noise(1, 64))
    assert found.shape == (1, 64, 64)
    assert np.isfinite(found).all()


def test_other_precisions_are_computed_in_float32():
    model = small("cbam")
    expected = cam_maps(model, noise(3), [0, 1, 2])
    half = small("cbam").to(torch.bfloat16)
    assert np.abs(cam_maps(half, noise(3), [0, 1, 2]) - expected).mean() < 0.1
    assert next(half.parameters()).dtype == torch.bfloat16
    assert gate_maps(half, noise(3))["block1.2"].dtype == np.float32


def test_a_model_without_maps_is_said():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(GraftError, match="no layer for Grad-CAM"):
        cam_maps(flat, noise(2, 8))


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ConfigError, match=r"pip install 'attngraft\[explain\]'") as caught:
        cam_maps(small(), noise(1))
    assert "\n" not in str(caught.value)


# --- the model stays as it was -----------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [gate_maps, cam_maps])
def test_nothing_is_changed(look):
    model = small("cbam").train()
    model.head.weight.requires_grad_(False)
    model.block1[0].weight.grad = torch.ones_like(model.block1[0].weight)
    model.block2.eval()
    before = state_of(model)
    look(model, noise(3))
    assert_untouched(before, model)


@pytest.mark.parametrize("look", [gate_maps, cam_maps])
def test_nothing_is_changed_by_an_interrupt(look):
    model = small("cbam").train()
    model.block3[2].graft = Interrupting()
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        look(model, noise(3))
    assert_untouched(before, model)


def test_the_planted_box_is_as_large_as_it_is_said_to_be():
    boxes = planted_images(5).boxes
    assert (boxes[:, 2:] - boxes[:, :2] == PATCH).all()
