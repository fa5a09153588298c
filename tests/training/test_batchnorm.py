"""What BatchNorm does under each policy, and what measuring it anew gives."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_helpers import (
    SIZE,
    classes_context,
    coloured_squares,
    droppy_model,
    run_fit,
    short_recipe,
    small_model,
)

from attngraft.data import build_transform, make_loader
from attngraft.surgery import graft
from attngraft.training import Phase, Recipe, RunFolder
from attngraft.training.batchnorm import is_new, recalibrate_
from attngraft.training.phases import apply_phase_, dissect, kept_norms

POLICIES = ["train", "frozen", "fixed", "recalibrate"]


def measured_model() -> nn.Module:
    """A network whose statistics are not those of a new one."""
    model = droppy_model()
    for norm in norms_of(model).values():
        norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
        norm.running_var.fill_(1.7)
    return model


def norms_of(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def trained(
    tmp_path: Path, policy: str, model: nn.Module | None = None, **recipe: object
) -> tuple[nn.Module, nn.Module]:
    """A network before and after a short training."""
    before = model or measured_model()
    recipe = short_recipe(batchnorm=policy)
    return before, run_fit(copy.deepcopy(before), coloured_squares(), tmp_path / policy, recipe=recipe).model


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_moves_what_it_says(tmp_path: Path, policy: str):
    before, after = trained(tmp_path, policy)
    for path, norm in norms_of(before).items():
        other = norms_of(after)[path]
        assert torch.equal(norm.running_mean, other.running_mean) == (policy in ("frozen", "fixed")), path
        assert torch.equal(norm.weight, other.weight) == (policy == "fixed"), path
    assert not torch.equal(before.stem[0].weight, after.stem[0].weight)


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_layers_of_a_new_network_are_trained_under_every_policy(tmp_path: Path, policy: str):
    _, expected = trained(tmp_path, "train", droppy_model())
    _, found = trained(tmp_path, policy, droppy_model())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name


def test_only_the_new_layers_of_a_network_are_trained():
    model = measured_model()
    model.branch[1].reset_running_stats()
    anatomy = dissect(model, (3, SIZE, SIZE))
    assert anatomy.new_norms == ("branch.1",)
    apply_phase_(model, anatomy, Phase("all"), "fixed")
    assert [norm.training for norm in norms_of(model).values()] == [False, True]
    assert not model.stem[1].weight.requires_grad
    assert model.branch[1].weight.requires_grad


def test_a_phase_has_the_last_word():
    model = measured_model()
    anatomy = dissect(model, (3, SIZE, SIZE))
    assert kept_norms(anatomy, Phase("all", batchnorm="train"), "frozen") == set()
    assert kept_norms(anatomy, Phase("all", batchnorm="frozen"), "train") == {"stem.1", "branch.1"}
    assert kept_norms(anatomy, Phase("bn", train=("bn",)), "frozen") == set()


def test_batchnorm_in_a_graft_goes_with_its_graft():
    model = graft(measured_model(), "coord", where="stem", input_size=(3, SIZE, SIZE))
    anatomy = dissect(model, (3, SIZE, SIZE))
    apply_phase_(model, anatomy, Phase("all"), "frozen")
    inside = [norm for path, norm in model.named_modules() if "graft" in path and hasattr(norm, "running_var")]
    assert inside
    assert all(norm.training for norm in inside)


def test_measuring_anew_gives_the_moments_over_all_images():
    model, data = measured_model(), coloured_squares(train=41)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert recalibrate_(model, ["stem.1", "branch.1", "head"], data.train, classes_context(batch_size=8)) == 2
    transform = build_transform("none", classes_context().preprocessing, train=False)
    with torch.no_grad():
        maps = torch.cat([model.stem[0](batch.images) for batch in make_loader(data.train, transform, batch_size=7)])
    flat = maps.transpose(0, 1).flatten(1)
    np.testing.assert_allclose(model.stem[1].running_mean, flat.mean(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.stem[1].running_var, flat.var(1), rtol=1e-4)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {f"{path}.{kind}" for path in ("stem.1", "branch.1") for kind in ("running_mean", "running_var")}


@pytest.mark.parametrize("images", [2, 5, 9, 17])
def test_no_batch_of_one_image_is_measured(images: int):
    """A layer on maps of one pixel takes no batch of one image."""
    norm = nn.BatchNorm2d(3)
    norm.running_var.fill_(2)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), norm, nn.Flatten(), nn.Linear(3, 3))
    assert recalibrate_(model, ["1"], coloured_squares(train=images).train, classes_context(batch_size=4)) == 1
    assert not is_new(norm)


def test_batchnorm_is_measured_once_for_the_recipe_and_for_each_phase_that_asks(tmp_path: Path):
    one, two = Phase("one", epochs=1, lr=0.01), Phase("two", epochs=1, lr=0.01)
    data = coloured_squares()

    def sentences(recipe: Recipe, name: str) -> int:
        run = run_fit(measured_model(), data, tmp_path / name, recipe=recipe)
        return len(RunFolder(run.run_dir).read().preparation)

    assert sentences(Recipe("r", (one, two), batchnorm="recalibrate", batch_size=16), "once") == 1
    again = replace(two, batchnorm="recalibrate")
    assert sentences(Recipe("r", (one, again), batchnorm="recalibrate", batch_size=16), "twice") == 2
    assert sentences(Recipe("r", (one, again), batch_size=16), "second") == 1
    assert sentences(Recipe("r", (one, two), batch_size=16), "never") == 0


def test_new_statistics_are_those_that_layers_are_made_with():
    assert is_new(nn.BatchNorm2d(4))
    assert not is_new(next(iter(norms_of(measured_model()).values())))
    assert dissect(small_model(), (3, SIZE, SIZE)).new_norms == dissect(small_model(), (3, SIZE, SIZE)).norms
