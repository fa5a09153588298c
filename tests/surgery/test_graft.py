"""Grafting and ungrafting: copies, failures that change nothing, gradients, devices and dtypes."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from grafting_helpers import assert_same_function, image_batch, outcome, settle_, stir_grafts_
from own_networks import ListNet, PairNet, SharedNet
from torch import nn

import attngraft as ag
from attngraft.errors import ConfigError, GraftError
from attngraft.surgery import check_live, graft_plan

SIZE = (3, 32, 32)


@pytest.fixture
def backbone():
    return settle_(ag.create_backbone("timm:test_resnet", num_classes=5, pretrained=False)).eval()


@pytest.fixture
def plan(backbone):
    return ag.plan_graft(backbone, "cbam", input_size=SIZE)


def snapshot(model):
    """Everything that a failed graft must not have changed."""
    hooks = {path: list(m._forward_hooks.values()) for path, m in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {path: m.training for path, m in model.named_modules()}
    return hooks, state, modes, set(vars(model))


def assert_unchanged(model, before):
    hooks, state, modes, attributes = before
    now_hooks, now_state, now_modes, now_attributes = snapshot(model)
    assert now_hooks == hooks
    assert now_state.keys() == state.keys()
    assert all(torch.equal(now_state[key], value) for key, value in state.items())
    assert now_modes == modes
    assert now_attributes == attributes


def test_graft_returns_a_copy_and_leaves_the_original(backbone, plan):
    before = snapshot(backbone)
    grown = ag.graft(backbone, plan)
    assert_unchanged(backbone, before)
    assert ag.grafts(backbone) == {}
    assert list(ag.grafts(grown)) == [site.path for site in plan.sites]
    stir_grafts_(grown)
    assert not {id(p) for p in grown.parameters()} & {id(p) for p in backbone.parameters()}
    assert_unchanged(backbone, before)


def test_graft_in_place_returns_the_same_model(backbone, plan):
    assert ag.graft_(backbone, plan) is backbone
    assert graft_plan(backbone) == plan


def test_a_name_plans_and_grafts_in_one_step(backbone):
    grown = ag.graft(backbone, "se", where="stage", input_size=SIZE, reduction=4)
    assert {type(attention).__name__ for attention in ag.grafts(grown).values()} == {"SE"}
    assert graft_plan(grown).options == {"reduction": 4}


def test_a_finished_plan_takes_no_further_options(backbone, plan):
    with pytest.raises(GraftError, match="got a finished plan and also"):
        ag.graft_(backbone, plan, where="stage")


def test_the_backbones_keys_stay_and_a_plain_checkpoint_still_loads(backbone, plan):
    checkpoint = copy.deepcopy(backbone.state_dict())
    grown = ag.graft(backbone, plan)
    keys = [key for key in grown.state_dict() if ".graft." not in key]
    assert keys == list(checkpoint)
    for parameter in grown.parameters():
        parameter.data.fill_(0.25)
    missing, unexpected = grown.load_state_dict(checkpoint, strict=False)
    assert unexpected == []
    assert missing
    assert all(".graft." in key for key in missing)
    assert all(torch.equal(grown.state_dict()[key], value) for key, value in checkpoint.items())


def test_ungraft_gives_the_backbone_back(backbone, plan):
    grown = stir_grafts_(ag.graft(backbone, plan))
    plain = ag.ungraft(grown)
    assert len(ag.grafts(grown)) == len(plan.sites)
    assert list(plain.state_dict()) == list(backbone.state_dict())
    assert not any(module._forward_hooks for module in plain.modules())
    assert graft_plan(plain) is None
    assert_same_function(backbone, plain, image_batch(2, *SIZE), train=False)
    assert ag.grafts(ag.graft(plain, plan))


def test_ungraft_leaves_hooks_of_others_alone(backbone, plan):
    host = backbone.get_submodule(plan.sites[0].path)
    seen = []
    host.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    ag.ungraft_(ag.graft_(backbone, plan))
    seen.clear()
    backbone(image_batch(2, *SIZE))
    assert len(seen) == 1


def test_ungraft_of_a_plain_model_is_refused(backbone):
    with pytest.raises(GraftError, match="has no grafts: nothing to take out"):
        ag.ungraft_(backbone)


def test_grafting_twice_is_refused_and_changes_nothing(backbone, plan):
    ag.graft_(backbone, plan)
    before = snapshot(backbone)
    for attempt in (lambda: ag.graft_(backbone, plan), lambda: ag.plan_graft(backbone, "se", input_size=SIZE)):
        with pytest.raises(GraftError, match="has grafts already: ungraft it first"):
            attempt()
    assert_unchanged(backbone, before)


def with_sites(plan, *sites):
    return dataclasses.replace(plan, sites=sites)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: dataclasses.replace(s, channels=s.channels + 1), "channels, the plan says .*: plan again"),
        (lambda s: dataclasses.replace(s, path=s.path + "2"), "has no module '.*bn32': did you mean '.*bn3'"),
        (lambda s: dataclasses.replace(s, channels=0), "channels is 0: expected a whole number >= 1"),
        (lambda s: dataclasses.replace(s, path="fc"), "the output of 'fc' is not one feature map"),
        (lambda s: dataclasses.replace(s, path=""), "the output of '' is not one feature map"),
    ],
    ids=["channels", "path", "unbuildable", "no-map", "the-model-itself"],
)
def test_a_plan_with_one_bad_site_leaves_the_model_as_it_was(backbone, plan, spoil, message):
    before = snapshot(backbone)
    bad = with_sites(plan, *plan.sites[:-1], spoil(plan.sites[-1]))
    with pytest.raises((GraftError, ConfigError), match=message):
        ag.graft_(backbone, bad)
    assert_unchanged(backbone, before)
    assert ag.graft_(backbone, plan) is backbone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "cbma"}, "unknown attention 'cbma': did you mean 'cbam'"),
        ({"options": {"reduction": 0}}, "reduction is 0"),
        ({"options": {"reductoin": 4}}, "unknown option 'reductoin'.*did you mean 'reduction'"),
        ({"options": {"channels": 4}}, "unknown option 'channels'"),
        ({"options": {"init": "paper"}}, "unknown option 'init'"),
        ({"sites": ()}, "the plan has no sites"),
        ({"input_size": (1, 32, 32)}, "cannot process an input of shape"),
        ({"input_size": (0, 32, 32)}, "input_size is"),
    ],
)
def test_a_plan_that_cannot_be_built_leaves_the_model_as_it_was(backbone, plan, changes, message):
    before = snapshot(backbone)
    with pytest.raises((GraftError, ConfigError), match=message):
        ag.graft_(backbone, dataclasses.replace(plan, **changes))
    assert_unchanged(backbone, before)


def test_a_plan_of_another_model_is_refused(plan):
    other = ag.create_backbone("small-cnn")
    before = snapshot(other)
    with pytest.raises(GraftError, match="the model has no module"):
        ag.graft_(other, plan)
    wider = ag.create_backbone("torchvision:resnet18", pretrained=False)
    with pytest.raises(GraftError, match="channels, the plan says"):
        ag.graft_(wider, with_sites(plan, dataclasses.replace(plan.sites[0], path="layer1.0.bn2", channels=3)))
    assert_unchanged(other, before)
    assert ag.grafts(wider) == {}


@pytest.mark.parametrize(
    ("path", "message"),
    [("shared", "would run 2 times in a forward pass"), ("unused", "does not run in the forward pass")],
)
def test_a_plan_with_a_host_that_does_not_run_once_is_refused(path, message):
    model = SharedNet()
    plan = ag.plan_graft(model, "se", where="stem", input_size=SIZE)
    before = snapshot(model)
    with pytest.raises(GraftError, match=message):
        ag.graft_(model, with_sites(plan, dataclasses.replace(plan.sites[0], path=path)))
    assert_unchanged(model, before)


def test_a_plan_that_names_a_sequential_is_refused():
    # the Sequential would run the attention as one more child, and the hook once more
    model = ag.create_backbone("small-cnn")
    plan = ag.plan_graft(model, "se")
    with pytest.raises(GraftError, match="would run 2 times in a forward pass"):
        ag.graft_(model, with_sites(plan, dataclasses.replace(plan.sites[0], path="block1")))
    assert ag.grafts(model) == {}


def test_a_host_with_an_attribute_of_that_name_is_refused():
    model = ag.create_backbone("small-cnn")
    model.block1[2].graft = "mine"
    with pytest.raises(GraftError, match=r"'block1\.2' has an attribute named 'graft' of its own"):
        ag.graft_(model, "se")
    assert model.block1[2].graft == "mine"


@pytest.mark.parametrize("attention", ag.attentions())
def test_gradients_reach_every_graft_at_the_first_step(attention):
    grown = ag.graft(settle_(ag.create_backbone("small-cnn")), attention).train()
    loss = nn.functional.cross_entropy(grown(image_batch(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    for path, module in ag.grafts(grown).items():
        parameters = list(module.parameters())
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters), path
        assert any(p.grad.any() for p in parameters), path


def test_one_training_step_makes_the_attention_matter(backbone, plan):
    grown = ag.graft(backbone, plan).train()
    x, labels = image_batch(4, *SIZE), torch.tensor([0, 1, 2, 3])
    parameters = [p for attention in ag.grafts(grown).values() for p in attention.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    nn.functional.cross_entropy(grown(x), labels).backward()
    optimizer.step()
    assert not torch.equal(outcome(grown, x, train=False)[0], outcome(backbone, x, train=False)[0])


def test_the_mode_of_the_host_is_the_mode_of_the_graft(backbone, plan):
    backbone.train()
    backbone.get_submodule(plan.sites[0].path).eval()  # one frozen BatchNorm
    modes = [attention.training for attention in ag.grafts(ag.graft_(backbone, plan)).values()]
    assert modes == [False, *[True] * (len(plan.sites) - 1)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("spec", ["timm:test_resnet", "small-cnn"])  # BatchNorm hosts, ReLU hosts
def test_grafts_take_the_dtype_of_their_host(spec, dtype):
    model = settle_(ag.create_backbone(spec, pretrained=False)).to(dtype)
    grown = ag.graft(model, "cbam", input_size=SIZE)
    grafted = [t for a in ag.grafts(grown).values() for t in a.state_dict().values() if t.is_floating_point()]
    assert {tensor.dtype for tensor in grafted} == {dtype}
    for train in (False, True):
        assert_same_function(model, grown, image_batch(2, *SIZE).to(dtype), train=train)


def test_grafts_are_created_where_their_host_is():
    with torch.device("meta"):
        model = ag.create_backbone("timm:test_resnet", pretrained=False)
    grown = ag.graft(model, "cbam", input_size=SIZE)
    assert {p.device.type for p in grown.parameters()} == {"meta"}


def test_channels_last_and_other_image_sizes_stay_exact(backbone, plan):
    grown = ag.graft(backbone, plan).to(memory_format=torch.channels_last)
    backbone = backbone.to(memory_format=torch.channels_last)
    for shape in ((1, 3, 32, 32), (2, 3, 48, 40)):
        x = image_batch(*shape).to(memory_format=torch.channels_last)
        assert_same_function(backbone, grown, x, train=False)


def test_a_backbone_with_attention_of_its_own_keeps_it_and_says_so():
    model = settle_(ag.create_backbone("timm:seresnet18", num_classes=5, pretrained=False))
    plan = ag.plan_graft(model, "cbam", input_size=SIZE)
    assert "attention of its own (SEModule)" in plan.notes[-1]
    grown = ag.graft(model, plan)
    assert sum(type(m).__name__ == "SEModule" for m in grown.modules()) == 8
    x = image_batch(2, *SIZE)
    assert_same_function(model, grown, x, train=True)
    assert not torch.equal(outcome(stir_grafts_(grown), x, train=False)[0], outcome(model, x, train=False)[0])


def test_several_inputs_and_lists_of_images_can_be_grafted():
    pair = (image_batch(2, 3, 16, 16), image_batch(2, 3, 16, 16, seed=1))
    grown = ag.graft(PairNet().eval(), "cbam", example_input=pair)
    assert len(ag.grafts(grown)) == 3
    assert torch.equal(grown(*pair)["logits"], ag.ungraft(grown)(*pair)["logits"])
    images = [image_batch(3, 16, 12), image_batch(3, 10, 16)]
    model = ListNet().eval()
    plan = ag.plan_graft(model, "cbam", example_input=images)
    grown = ag.graft(model, plan, example_input=images)
    assert torch.equal(grown(images), model(images))


def test_no_random_number_is_drawn_by_planning(backbone):
    state = torch.get_rng_state()
    ag.plan_graft(backbone, "cbam", input_size=SIZE)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_builds_the_same_grafts(backbone, plan):
    def build():
        torch.manual_seed(11)
        return ag.graft(backbone, plan).state_dict()

    first, second = build(), build()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_plain_model_is_live(backbone):
    check_live(backbone)
    assert ag.grafts(backbone) == {}
