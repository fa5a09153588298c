"""What a phase trains, how fast, and what frozen means."""

from __future__ import annotations

import pytest
import torch
from cases import slow
from torch import nn
from torch.nn import functional as F
from training_helpers import droppy_model, small_model

from attngraft.attention import Attention
from attngraft.backbones import create_backbone
from attngraft.surgery import graft, grafts
from attngraft.training import Phase, Recipe, load_recipe
from attngraft.training.optimizers import build_optimizer
from attngraft.training.phases import apply_phase_, dissect, parameter_groups, set_modes_, trainable_names

MODELS = [
    ("small-cnn", 32),
    ("timm:resnet10t", 64),
    ("timm:test_efficientnet", 64),
    slow("torchvision:vgg11_bn", 32),
    ("torchvision:resnet18", 64),
    slow("torchvision:densenet121", 64),
]


def anatomy_of(model: nn.Module, size: int = 16):
    return dissect(model, (3, size, size))


def train_step_(model: nn.Module, phase: Phase, size: int = 16, recipe: Recipe | None = None) -> None:
    """One optimiser step of a phase on noise."""
    recipe = recipe or Recipe("r", (phase,), optimizer="sgd", weight_decay=0.1, graft_weight_decay=0.1)
    anatomy = anatomy_of(model, size)
    apply_phase_(model, anatomy, phase)
    optimizer = build_optimizer(model, parameter_groups(model, anatomy, phase, recipe), recipe)
    torch.manual_seed(0)
    logits = model(torch.randn(4, 3, size, size))
    F.cross_entropy(logits, torch.arange(4) % logits.shape[1]).backward()
    optimizer.step()


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize(("spec", "size"), MODELS)
def test_every_parameter_belongs_to_a_part(spec: str, size: int):
    model = create_backbone(spec, num_classes=3, pretrained=False)
    anatomy = anatomy_of(model, size)
    assert list(anatomy.parts) == [name for name, _ in model.named_parameters()]
    stages = [part for part in anatomy.parts.values() if isinstance(part, int)]
    assert min(stages) == 0
    assert max(stages) == anatomy.stages - 1
    assert anatomy.stages >= 2
    assert [part for part in anatomy.parts.values() if part == "head"]


@pytest.mark.parametrize(("spec", "size"), MODELS)
def test_stages_never_fall_from_the_input_to_the_head(spec: str, size: int):
    model = create_backbone(spec, num_classes=3, pretrained=False)
    order = [part for part in anatomy_of(model, size).parts.values() if isinstance(part, int)]
    # a transition's convolution works at the resolution that it ends, so a step back by one block may not occur
    assert order == sorted(order)


def test_the_parts_of_a_grafted_network_are_told_apart():
    model = graft(small_model(), "cbam", where="stage", input_size=(3, 16, 16))
    parts = anatomy_of(model).parts
    assert {name for name, part in parts.items() if part == "grafts"} == {n for n in parts if ".graft." in n}
    assert {name for name, part in parts.items() if part == "head"} == {"head.weight", "head.bias"}
    assert [parts[f"block{i}.0.weight"] for i in (1, 2, 3)] == [0, 1, 2]


def test_frozen_means_frozen():
    model = graft(small_model(), "cbam", where="stage", input_size=(3, 16, 16))
    before = state_of(model)
    train_step_(model, Phase("head", train=("head", "grafts"), lr=0.1))
    moved = changed(before, model)
    assert moved
    assert all(name.startswith("head.") or ".graft." in name for name in moved)
    assert {"head.weight", "head.bias"} <= moved


def test_frozen_batchnorm_keeps_its_statistics_and_dropout_is_off():
    model = droppy_model()
    before = state_of(model)
    train_step_(model, Phase("head", train=("head",)))
    assert changed(before, model) == {"head.weight", "head.bias"}
    assert not any(module.training for module in model.stem.modules())
    assert not any(module.training for module in model.branch.modules())


def test_dropout_inside_a_frozen_block_does_nothing():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 3)
    )
    apply_phase_(model, anatomy_of(model), Phase("head", train=("head",)))
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), model(x))
    apply_phase_(model, anatomy_of(model), Phase("all", train=("all",)))
    assert not torch.equal(model(x), model(x))


def test_batchnorm_without_parameters_freezes_with_its_block():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(4, 3),
    )
    before = state_of(model)
    train_step_(model, Phase("head", train=("head",)))
    assert changed(before, model) == {"1.weight", "1.bias"}


def test_a_trained_graft_does_not_wake_the_frozen_batchnorm_that_hosts_it():
    model = create_backbone("torchvision:resnet18", num_classes=3, pretrained=False)
    model = graft(model, "cbam", input_size=(3, 64, 64))
    before = state_of(model)
    train_step_(model, Phase("grafts", train=("grafts",), lr=0.1), size=64)
    moved = changed(before, model)
    assert moved
    assert all(".graft." in name for name in moved)
    for path, attention in grafts(model).items():
        host = model.get_submodule(path)
        assert isinstance(host, nn.BatchNorm2d)
        assert not host.training
        assert isinstance(attention, Attention)
        assert attention.training


def test_a_frozen_graft_stays_in_eval_mode():
    model = graft(small_model(), "cbam", where="stage", input_size=(3, 16, 16))
    apply_phase_(model, anatomy_of(model), Phase("upper", train=("head", "upper:3")))
    assert all(not attention.training for attention in grafts(model).values())
    assert model.block1[1].training


@pytest.mark.parametrize(
    ("part", "blocks"),
    [("upper:1", {"block3"}), ("upper:2", {"block2", "block3"}), ("upper:0.5", {"block2", "block3"})],
)
def test_upper_trains_that_many_stages_from_the_top(part: str, blocks: set[str]):
    model = small_model()  # 3 stages: half of them, rounded up, are 2
    anatomy = anatomy_of(model)
    assert anatomy.stages == 3
    names = trainable_names(anatomy, Phase("p", train=("head", part)))
    assert {name.split(".")[0] for name in names} == blocks | {"head"}


def test_upper_beyond_the_network_trains_all_stages_but_not_the_head():
    model = small_model()
    names = trainable_names(anatomy_of(model), Phase("p", train=("upper:99",)))
    assert names == {name for name, _ in model.named_parameters() if not name.startswith("head")}


def test_all_trains_everything():
    model = graft(small_model(), "se", where="stage", input_size=(3, 16, 16))
    names = trainable_names(anatomy_of(model), Phase("p", train=("all",)))
    assert names == {name for name, _ in model.named_parameters()}


def test_the_default_recipe_wakes_more_with_every_phase():
    model = graft(create_backbone("timm:resnet10t", num_classes=3, pretrained=False), "se", input_size=(3, 64, 64))
    anatomy = anatomy_of(model, 64)
    first, second = (trainable_names(anatomy, phase) for phase in load_recipe("three-phase").phases)
    assert first < second
    assert second == {name for name, _ in model.named_parameters()}


def test_rates_fall_with_depth_and_biases_do_not_decay():
    model = graft(small_model(), "cbam", where="stage", input_size=(3, 16, 16))
    phase = Phase("all", lr=0.1, lr_decay=0.5)
    recipe = Recipe(
        "r", (phase,), weight_decay=0.3, graft_weight_decay=0.2, graft_lr_scale=3.0, head_lr_scale=2.0, lr_scale=10.0
    )
    groups = parameter_groups(model, anatomy_of(model), phase, recipe)
    found = {name: (group.part, group.lr, group.weight_decay) for group in groups for name in group.names}
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert found["head.weight"] == ("head", pytest.approx(2.0), 0.3)
    assert found["head.bias"] == ("head", pytest.approx(2.0), 0.0)
    assert found["block3.0.weight"] == ("stage 2", pytest.approx(0.5), 0.3)
    assert found["block2.0.weight"] == ("stage 1", pytest.approx(0.25), 0.3)
    assert found["block1.0.weight"] == ("stage 0", pytest.approx(0.125), 0.3)
    assert found["block1.1.weight"] == ("stage 0", pytest.approx(0.125), 0.0)
    for name, parameter in model.named_parameters():
        if ".graft." in name:
            assert found[name] == ("grafts", pytest.approx(3.0), 0.2 if parameter.ndim > 1 else 0.0)


def test_a_parameter_is_in_one_group_only():
    model = graft(create_backbone("timm:resnet10t", num_classes=3, pretrained=False), "cbam", input_size=(3, 64, 64))
    phase = Phase("all", lr_decay=0.7)
    groups = parameter_groups(model, anatomy_of(model, 64), phase, Recipe("r", (phase,)))
    names = [name for group in groups for name in group.names]
    assert len(names) == len(set(names)) == len(list(model.parameters()))


def test_a_phase_undoes_the_freezing_of_the_one_before():
    model = small_model()
    anatomy = anatomy_of(model)
    apply_phase_(model, anatomy, Phase("head", train=("head",)))
    assert not model.block1[0].weight.requires_grad
    apply_phase_(model, anatomy, Phase("all"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_modules_without_parameters_go_with_what_follows_in_a_network_frozen_in_part():
    model = nn.Sequential(
        nn.BatchNorm2d(3, affine=False),
        nn.Conv2d(3, 4, 3),
        nn.Dropout2d(0.5),
        nn.Conv2d(4, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4, 2),
    )
    model.requires_grad_(False)
    model[7].requires_grad_(True)
    set_modes_(model)
    assert [module.training for module in model] == [False, False, False, False, True, True, True, True]


def test_both_of_two_heads_are_the_head():
    import timm

    model = timm.create_model("repvit_m0_9", num_classes=3)
    parts = dissect(model, (3, 64, 64)).parts
    heads = {name for name, part in parts.items() if part == "head"}
    assert {name for name in parts if name.startswith(("head.head.", "head.head_dist."))} <= heads


def normed_model() -> nn.Module:
    """A backbone with BatchNorm with and without parameters and dropout, and a head with BatchNorm of its own."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 6, 3), nn.Dropout(0.9), nn.BatchNorm2d(6, affine=False), nn.GroupNorm(2, 6)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        head,
    )
    model.get_classifier = lambda: head  # as timm's models say
    return model


STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}


def test_bn_trains_scales_shifts_and_statistics_outside_grafts_and_head():
    model = normed_model()
    before = state_of(model)
    train_step_(model, Phase("bn", train=("bn",), lr=0.1))
    moved = {"0.1.weight", "0.1.bias"} | {f"{path}.{name}" for path in ("0.1", "1.2") for name in STATISTICS}
    assert changed(before, model) == moved
    assert {path for path, module in model.named_modules() if not module.training} >= {"0.0", "1.0", "1.3", "3.0"}


def test_without_bn_statistics_stay_whatever_else_is_trained():
    model = normed_model()
    before = state_of(model)
    train_step_(model, Phase("head", train=("head",), lr=0.1))
    assert {name.split(".")[0] for name in changed(before, model)} == {"3"}


def test_head_bias_trains_the_bias_of_the_logits_alone():
    model = normed_model()
    before = state_of(model)
    train_step_(model, Phase("bias", train=("head-bias",), lr=0.1))
    assert changed(before, model) == {"3.1.bias"}


@pytest.mark.parametrize(("spec", "size"), MODELS)
def test_grafts_bn_and_head_bias_of_real_networks(spec: str, size: int):
    """Everything else is equal in every bit, frozen BatchNorm of nothing included."""
    model = create_backbone(spec, num_classes=3, pretrained=False)
    if spec == "small-cnn":
        model = graft(model, "cbam", where="stage", input_size=(3, size, size))
    before = state_of(model)
    train_step_(model, Phase("adapt", train=("grafts", "bn", "head-bias"), lr=0.1), size=size)
    norms = [path for path, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and "graft" not in path]
    own = {f"{path}.{name}" for path in norms for name in STATISTICS | {"weight", "bias"}}
    moved = {name for name in changed(before, model) if ".graft." not in name}
    head = {name for name, part in anatomy_of(model, size).parts.items() if part == "head"}
    assert moved <= own | {name for name in head if name.endswith("bias")}
    assert {f"{path}.running_mean" for path in norms} <= moved
    assert moved & {f"{path}.weight" for path in norms}
    assert len(moved - own) == 1
    assert bool(grafts(model)) == any(".graft." in name for name in changed(before, model))


def test_a_phase_of_grafts_alone_keeps_the_statistics_that_the_phase_before_moved():
    model = graft(small_model(), "cbam", where="stage", input_size=(3, 16, 16))
    train_step_(model, Phase("bn", train=("bn",), lr=0.1))
    before = state_of(model)
    train_step_(model, Phase("grafts", train=("grafts",), lr=0.1))
    assert all(".graft." in name for name in changed(before, model))


def test_a_head_without_a_bias_has_no_bias_to_train():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3, bias=False))
    assert trainable_names(anatomy_of(model), Phase("p", train=("head-bias",))) == set()


def test_bn_and_head_bias_have_the_rates_of_where_they_are():
    model = small_model()
    phase = Phase("adapt", train=("bn", "head-bias"), lr=0.1, lr_decay=0.5)
    recipe = Recipe("r", (phase,), weight_decay=0.3, head_lr_scale=2.0)
    groups = parameter_groups(model, anatomy_of(model), phase, recipe)
    found = {name: (group.lr, group.weight_decay) for group in groups for name in group.names}
    assert found == {
        **{f"block{i}.1.{name}": (pytest.approx(0.1 * 0.5 ** (4 - i)), 0.0) for i in (1, 2, 3) for name in WB},
        "head.bias": (pytest.approx(0.2), 0.0),
    }


WB = ("weight", "bias")
