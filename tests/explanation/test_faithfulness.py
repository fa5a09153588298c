"""Deletion, insertion and ROAD against what is known: maps that are right, wrong, or know nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from planted import assert_untouched, planted_images, planted_inputs, planted_model, state_of
from torch import nn
from torch.nn import functional as F

import attngraft as ag
from attngraft.config import from_dict, to_dict
from attngraft.errors import ConfigError, TrainingError
from attngraft.explanation.explanation_record import Faithfulness
from attngraft.explanation.image_source import view_of
from attngraft.explanation.perturbation import blur, importance_ranks, impute, perturb
from attngraft.explanation.saliency_maps import cam_maps, gate_maps, random_maps
from attngraft.explanation.saliency_measures import area, faithfulness, interval, paired
from attngraft.training import Silent


def by_name(found: dict) -> dict:
    return {entry["map"]: entry for entry in to_dict(found)["maps"]}


def patch_maps(count: int, seed: int = 0) -> np.ndarray:
    """1 where the planted patch is."""
    found = np.zeros((count, 32, 32), dtype=np.float32)
    for image, (x0, y0, x1, y1) in zip(found, planted_images(count, seed).boxes.astype(int), strict=True):
        image[y0:y1, x0:x1] = 1
    return found


# --- pieces ------------------------------------------------------------------------------------------------------


def test_ranks_go_from_the_most_important_to_the_least():
    maps = np.array([[[3.0, 1.0], [2.0, 9.0]]], dtype=np.float32)
    assert importance_ranks(maps, seed=0).tolist() == [[[0.25, 0.75], [0.5, 0.0]]]


def test_equally_important_pixels_come_in_any_order():
    ranks = importance_ranks(np.zeros((500, 4, 4), dtype=np.float32), seed=0)
    assert torch.equal(ranks.flatten(1).sort().values, (torch.arange(16) / 16).expand(500, -1))
    assert (ranks.mean(0) - 7.5 / 16).abs().max() < 0.06
    assert torch.equal(ranks, importance_ranks(np.zeros((500, 4, 4), dtype=np.float32), seed=0))


def test_blurring_keeps_constants_and_takes_detail():
    constant = torch.full((2, 3, 20, 30), 0.7)
    assert torch.allclose(blur(constant), constant, atol=1e-6)
    noise = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert blur(noise).std() < 0.2 * noise.std()
    assert blur(torch.randn(1, 1, 2, 40)).shape == (1, 1, 2, 40)


def test_the_area_by_hand():
    curves = np.array([[1.0, 0.5, 0.0], [0.2, 0.2, 0.2]], dtype=np.float32)
    assert area(curves, np.array([0.0, 0.5, 1.0])) == pytest.approx([0.5, 0.2])
    assert area(curves, np.array([0.0, 0.1, 1.0])) == pytest.approx([0.075 + 0.225, 0.2])


def test_intervals_hold_the_mean_and_stay_where_they_can():
    found = interval([0.0, 0.0, 0.0, 1.0])
    assert found.mean == 0.25
    assert found.low == 0.0
    assert found.high <= 1.0
    difference = paired([0.2, 0.4, 0.6], [0.3, 0.5, 0.8])
    error = np.std([-0.1, -0.1, -0.2], ddof=1) / np.sqrt(3)
    assert difference.mean == pytest.approx(-0.4 / 3)
    assert difference.high == pytest.approx(-0.4 / 3 + 4.302653 * error)


# --- imputation --------------------------------------------------------------------------------------------------


def reference_imputation(image: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The system of equations that the authors' code sets up, solved directly."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer, neighbors_weights
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import spsolve

    matrix, right = NoisyLinearImputer.setup_sparse_system(known.float().numpy(), image.numpy(), neighbors_weights)
    found = image.clone()
    found[:, ~known] = torch.from_numpy(spsolve(csc_matrix(matrix), right)).T.float()
    return found


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(32, 32), (17, 30)])
def test_imputation_solves_the_equations_of_the_published_code(fraction, shape):
    images = torch.randn(4, 3, *shape, generator=torch.Generator().manual_seed(0))
    images = images + 2 * blur(images) / blur(images).std()
    ranks = importance_ranks(random_maps(4, *shape, seed=1), seed=1)
    known = ranks >= fraction
    exact = torch.stack([reference_imputation(image, mask) for image, mask in zip(images, known, strict=True)])
    assert torch.allclose(impute(images, known, seed=0, noise=0.0, iterations=200), exact, atol=1e-3)
    quick = impute(images, known, seed=0, noise=0.0)
    assert (quick - exact).square().mean().sqrt() < 0.05 * images.std()


def test_known_pixels_stay_and_unknown_ones_do_not_shine_through():
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    known = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5
    found = impute(images, known, seed=3)
    mask = known[:, None].expand_as(images)
    assert torch.equal(found[mask], images[mask])
    assert torch.equal(found, impute(torch.where(mask, images, 1e6), known, seed=3))
    assert not torch.equal(found, impute(images, known, seed=4))
    assert torch.equal(impute(images, torch.ones_like(known), seed=0), images)


def test_a_ramp_is_filled_with_a_ramp():
    ramp = torch.linspace(-1, 1, 24).expand(1, 3, 24, 24).contiguous()
    known = torch.ones(1, 24, 24, dtype=torch.bool)
    known[:, 8:16, 6:18] = False
    assert torch.allclose(impute(ramp, known, seed=0, noise=0.0, iterations=60), ramp, atol=1e-3)
    noisy = impute(ramp, known, seed=0, noise=0.1, iterations=60) - ramp
    assert noisy[..., 8:16, 6:18].std() == pytest.approx(0.1, rel=0.2)


# --- known truths ------------------------------------------------------------------------------------------------


def test_the_right_map_is_faithful_and_its_opposite_worse_than_random():
    model, inputs = planted_model(), planted_inputs(40)
    right = patch_maps(40)
    (gate,) = gate_maps(model, inputs).values()
    found = faithfulness(model, inputs, {"right": right, "gate": gate, "opposite": 1 - right}, steps=6)
    rows = by_name(found)
    assert rows["right"]["verdict"] == rows["gate"]["verdict"] == "faithful"
    assert rows["opposite"]["verdict"] == "worse than random"
    assert rows["random"]["verdict"] is None
    for name in ("right", "gate"):
        assert rows[name]["deletion"]["against_random"]["high"] < -0.1
        assert rows[name]["insertion"]["against_random"]["low"] > 0.1
        assert rows[name]["road"]["against_random"]["low"] > 0.1
        assert rows[name]["insertion"]["against_centre"]["low"] > 0.05
    assert found.sentence == (
        "Maps that mark what the prediction rests on, better than a random map in deletion and in insertion "
        "(95 % intervals, n = 40 images): right, gate; worse than random: opposite."
    )


def test_a_map_that_only_knows_the_middle_is_told_from_one_that_knows_the_image():
    model = planted_model()
    images = planted_images(60)
    middle = [i for i, (x, y, *_) in enumerate(images.boxes) if 6 <= x <= 18 and 6 <= y <= 18]
    inputs, right = planted_inputs(60)[middle], patch_maps(60)[middle]
    found = faithfulness(model, inputs, {"swapped": np.roll(right, 3, axis=0), "right": right}, steps=6)
    rows = by_name(found)
    assert rows["centre prior"]["verdict"] == "faithful"
    assert rows["right"]["deletion"]["against_centre"]["high"] < 0 < rows["right"]["insertion"]["against_centre"]["low"]
    assert rows["swapped"]["insertion"]["against_centre"]["low"] < 0
    assert "swapped (not shown to be better than the centre)" in found.sentence


def test_random_maps_are_hardly_ever_called_faithful():
    torch.manual_seed(0)
    model = ag.create_backbone("small-cnn", num_classes=4).eval()
    verdicts = []
    for seed in range(3):
        inputs = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        noise = np.random.default_rng(seed).standard_normal((24, 16, 16)).astype(np.float32)
        coarse = F.interpolate(torch.from_numpy(noise[:, None, :2, :2]), (16, 16), mode="bilinear")[:, 0].numpy()
        maps = {f"smooth {i}": random_maps(24, 16, 16, seed=100 * seed + i) for i in range(1, 4)}
        maps |= {"pixels": noise, "coarse": coarse, "constant": np.ones_like(noise)}
        found = by_name(faithfulness(model, inputs, maps, steps=4, seed=1000 + seed))
        verdicts += [found[name]["verdict"] for name in maps]
    assert len(verdicts) == 18
    assert verdicts.count("faithful") <= 1


# --- how it is measured ------------------------------------------------------------------------------------------


def test_curves_begin_and_end_at_the_image_and_at_its_blur():
    model, inputs = planted_model(), planted_inputs(11)
    targets = np.array([0, 1] * 5 + [0])
    found = perturb(
        model,
        inputs,
        {"a": patch_maps(11), "b": random_maps(11, 32, 32, seed=1)},
        targets,
        np.linspace(0, 1, 5),
        seed=0,
    )
    with torch.no_grad():
        whole, gone = (model(x).softmax(1).numpy()[np.arange(11), targets] for x in (inputs, blur(inputs)))
    for curves in found.values():
        assert curves.deletion.shape == curves.insertion.shape == (11, 5)
        assert curves.road.shape == (11,)
        assert np.allclose(curves.deletion[:, 0], whole, atol=1e-6)
        assert np.allclose(curves.insertion[:, -1], whole, atol=1e-6)
        assert np.allclose(curves.deletion[:, -1], gone, atol=1e-6)
        assert np.allclose(curves.insertion[:, 0], gone, atol=1e-6)


def test_a_step_of_deletion_and_one_of_insertion_by_hand():
    model, inputs, maps = planted_model(), planted_inputs(3), random_maps(3, 32, 32, seed=1)
    targets = np.ones(3, dtype=np.int64)
    curves = perturb(model, inputs, {"a": maps}, targets, np.array([0.0, 0.25, 1.0]), seed=0)["a"]
    threshold = np.sort(maps.reshape(3, -1), axis=1)[:, -256][:, None, None]
    important = torch.from_numpy(maps >= threshold)[:, None]
    with torch.no_grad():
        deleted = model(torch.where(important, blur(inputs), inputs)).softmax(1)[:, 1].numpy()
        inserted = model(torch.where(important, inputs, blur(inputs))).softmax(1)[:, 1].numpy()
    assert np.allclose(curves.deletion[:, 1], deleted, atol=1e-5)
    assert np.allclose(curves.insertion[:, 1], inserted, atol=1e-5)


def test_the_table_is_plain_and_complete_and_the_same_again():
    model, view = planted_model(), view_of(planted_model(), planted_images(9))
    maps = {"grad-cam": cam_maps(model, view)}
    record = faithfulness(model, view, maps, steps=4, seed=5)
    assert record == faithfulness(model, planted_images(9), maps, [1] * 9, steps=4, seed=5)
    found = json.loads(json.dumps(to_dict(record), allow_nan=False))
    assert from_dict(Faithfulness, found) == record
    assert found["n"] == 9
    assert found["fractions"] == [0, 0.25, 0.5, 0.75, 1]
    assert [row["map"] for row in found["maps"]] == ["grad-cam", "centre prior", "random"]
    for row in found["maps"]:
        assert set(row) == {"map", "deletion", "insertion", "road", "verdict"}
        for kind in ("deletion", "insertion"):
            assert set(row[kind]) == {"curve", "auc", "against_random", "against_centre"}
            assert len(row[kind]["curve"]) == 5
            assert 0 <= row[kind]["auc"]["low"] <= row[kind]["auc"]["mean"] <= row[kind]["auc"]["high"] <= 1
        assert (row["road"]["against_random"] is None) == (row["map"] == "random")


def test_baselines_alone_have_no_sentence():
    found = faithfulness(planted_model(), planted_inputs(3), {}, steps=2)
    assert [row.map for row in found.maps] == ["centre prior", "random"]
    assert found.sentence == ""


def test_a_single_image_says_nothing_for_sure():
    found = by_name(faithfulness(planted_model(), planted_inputs(1), {"right": patch_maps(1)}, steps=3))
    assert found["right"]["verdict"] == "not shown"


def test_images_need_not_be_square_nor_in_colour():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inputs = torch.rand(3, 1, 12, 20, generator=torch.Generator().manual_seed(0))
    found = faithfulness(model, inputs, {"a": random_maps(3, 12, 20, seed=4)}, steps=2)
    assert found.n == 3


def test_nothing_is_changed():
    model = planted_model().train()
    before = state_of(model)
    faithfulness(model, planted_inputs(3), {"right": patch_maps(3)}, steps=2)
    assert_untouched(before, model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 1}, "steps is 1: expected at least 2"),
        ({"maps": {"a": np.zeros((2, 32, 31), np.float32)}}, r"map 'a' is \(2, 32, 31\)"),
        ({"maps": {"a": np.full((2, 32, 32), np.inf, np.float32)}}, "expected finite numbers"),
        ({"maps": {"centre prior": np.zeros((2, 32, 32), np.float32)}}, "called 'centre prior'"),
    ],
)
def test_what_does_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        faithfulness(planted_model(), planted_inputs(2), **{"maps": {}, **options})


def test_a_diverged_model_is_told():
    model = planted_model()
    model.head.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        faithfulness(model, planted_inputs(2), {}, steps=2)


class Counted(Silent):
    """Counts steps, announced and taken."""

    def __init__(self) -> None:
        self.announced, self.taken = 0, 0

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.announced += total

    def advance(self, steps: int = 1) -> None:
        self.taken += steps


def test_progress_goes_over_every_image_of_every_map_and_of_both_baselines():
    shown = Counted()
    faithfulness(planted_model(), planted_inputs(10), {"mine": patch_maps(10)}, steps=2, progress=shown)
    assert (shown.announced, shown.taken) == (30, 30)


def test_pixels_of_several_choices_are_imputed_together_as_one_after_another():
    images, known = torch.rand(3, 3, 20, 14), torch.rand(2, 3, 20, 14) < 0.5
    together = impute(images, known, seed=3)
    assert torch.allclose(together, torch.stack([impute(images, mine, seed=3) for mine in known]), atol=1e-6)
