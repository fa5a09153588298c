"""What a training loop of one's own needs of a grafted model: what is in it, what is trained, at which rate."""

import pytest
import torch
from grafting_helpers import image_batch
from own_networks import FunctionalResNet
from torch import nn

import attngraft as ag
from attngraft.errors import ConfigError, GraftError

SIZE = (3, 32, 32)


@pytest.fixture
def grown():
    return ag.graft(ag.create_backbone("small-cnn", num_classes=3), "cbam", input_size=SIZE)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_description_counts_parameters_and_names_the_grafts(grown):
    found = ag.describe(ag.freeze_(grown))
    in_grafts = sum(p.numel() for name, p in grown.named_parameters() if ".graft." in name)
    assert (found.trainable, found.graft_parameters) == (in_grafts, in_grafts)
    assert found.parameters == sum(p.numel() for p in grown.parameters())
    assert found.grafts == dict.fromkeys(ag.grafts(grown), "cbam")
    share = 100 * in_grafts / found.parameters
    assert str(found).splitlines()[0] == (
        f"small-cnn: {found.parameters:,} parameters, {in_grafts:,} trainable ({share:.2f} %)"
    )


def test_a_plain_model_is_described_too():
    found = ag.describe(FunctionalResNet())
    assert (found.backbone, found.grafts, found.trainable) == ("FunctionalResNet", {}, found.parameters)


@pytest.mark.parametrize("parts", ["grafts", "head", "norms", "grafts+head", ["grafts", "norms"]], ids=str)
def test_freezing_leaves_exactly_the_named_parts(grown, parts):
    assert ag.freeze_(grown, except_=parts) is grown
    wanted = set()
    for name, _ in grown.named_parameters():
        is_graft = ".graft." in name
        is_norm = not is_graft and isinstance(grown.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)
        part = "grafts" if is_graft else "norms" if is_norm else "head" if name.startswith("head") else "body"
        if part in parts:
            wanted.add(name)
    assert trained(grown) == wanted
    assert wanted


def test_a_step_moves_the_grafts_alone_when_all_else_is_frozen(grown):
    before = {name: value.clone() for name, value in grown.state_dict().items()}
    optimizer = torch.optim.SGD(ag.parameter_groups(ag.freeze_(grown).eval(), lr=0.1))
    grown(image_batch(4, *SIZE)).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in grown.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(".graft." in name for name in moved)


def test_groups_hold_every_trained_parameter_once_at_its_rate(grown):
    groups = ag.parameter_groups(grown, lr=0.1, graft_lr=1.0, head_lr=2.0, weight_decay=0.01, graft_weight_decay=0.5)
    names = {id(p): name for name, p in grown.named_parameters()}
    found = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(found) == sorted(names.values())
    for group in groups:
        assert group["lr"] == {"backbone": 0.1, "grafts": 1.0, "head": 2.0}[group["name"]]
        decays = {p.ndim > 1 for p in group["params"]}
        assert len(decays) == 1
        assert group["weight_decay"] == (decays.pop() and (0.5 if group["name"] == "grafts" else 0.01))
    torch.optim.AdamW(groups)


def test_without_rates_of_their_own_all_have_the_same(grown):
    assert {group["lr"] for group in ag.parameter_groups(grown, lr=0.3)} == {0.3}


def test_what_is_not_there_is_refused(grown):
    plain = ag.ungraft(grown)
    with pytest.raises(ConfigError, match="the model has no grafts with parameters"):
        ag.freeze_(plain)
    assert trained(plain)
    with pytest.raises(ConfigError, match="'graft' is no part of a model: did you mean 'grafts'"):
        ag.freeze_(grown, except_="graft")
    with pytest.raises(ConfigError, match="no parameter of the model requires gradients"):
        ag.parameter_groups(grown.requires_grad_(False), lr=0.1)
    for call in (ag.describe, ag.freeze_, lambda model: ag.parameter_groups(model, lr=1)):
        with pytest.raises(GraftError, match=r"create_backbone\('small-cnn'\)"):
            call("small-cnn")
