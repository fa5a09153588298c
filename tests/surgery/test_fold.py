"""Constant gates become weights: the folded model computes the same with less, and its original is left alone."""

from __future__ import annotations

import copy
import json
from functools import cache, partial

import pytest
import timm
import torch
import torchvision
from cases import slow
from grafting_helpers import image_batch, settle_, stir_grafts_
from safetensors import safe_open
from torch import nn

import attngraft as ag
from attngraft.attention import Gates, attentions
from attngraft.errors import GraftError
from attngraft.surgery import (
    FoldNote,
    check_live,
    computing,
    describe_saved,
    fold_grafts,
    fold_note,
    graft_plan,
    note_fold_,
)
from attngraft.surgery.fold import constant_gates, effective_scale

SIZE = (3, 32, 32)


def random_constants(model, seed=0, low=0.4, high=1.6):
    """Every part of every graft constant: a number for a spatial gate, one per channel for the others."""
    generator = torch.Generator().manual_seed(seed)
    return {
        path: {
            part: torch.rand(1 if part == "spatial" else attention.channels, generator=generator) * (high - low) + low
            for part in attention.parts
        }
        for path, attention in ag.grafts(model).items()
    }


@torch.no_grad()
def with_constants(model, constants, x):
    """What the model puts out where its gates are replaced, and nothing is folded."""
    how = {
        path: partial(lambda given, attention, x: constant_gates(given, x), given) for path, given in constants.items()
    }
    with computing(model, how):
        return model(x)


def assert_close(got, expected, tolerance=1e-5):
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@cache
def plain(spec):
    model = settle_(ag.create_backbone(spec, num_classes=5, pretrained=False)).eval()
    for module in model.modules():  # a branch that counts for nothing hides mistakes
        if isinstance(getattr(module, "gamma", None), nn.Parameter):
            module.gamma.data.fill_(0.3)
    return model


ADDED = ("capacity", "gc")  # what is added is not folded


def grown(spec, attention="cbam", where="auto", size=SIZE, **options):
    return stir_grafts_(ag.graft(plain(spec), attention, where=where, input_size=size, **options))


@torch.no_grad()
def logits(model, x):
    return model(x)


@pytest.mark.parametrize("attention", [name for name in attentions() if name not in ADDED])
def test_constant_gates_of_every_attention_go_into_the_batchnorms(attention):
    model = grown("timm:test_resnet", attention)
    constants, x = random_constants(model), image_batch(2, *SIZE)
    expected, before = with_constants(model, constants, x), copy.deepcopy(model.state_dict())
    folded, parts = fold_grafts(model, constants, x)
    assert_close(logits(folded, x), expected)
    assert ag.grafts(folded) == {}
    assert {part.action for part in parts} == {f"folded into {path}" for path in ag.grafts(model)}
    assert [part.path for part in parts if part.part == parts[0].part] == list(ag.grafts(model))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("spec", "where", "layer"),
    [
        ("small-cnn", "auto", "block1.1"),
        ("torchvision:resnet18", "auto", "layer1.0.bn2"),
        ("torchvision:mobilenet_v3_small", "auto", "features.3.block.2.1"),
        ("timm:tf_efficientnet_lite0", "auto", "blocks.1.1.bn3"),
        ("timm:convnext_atto", "auto", "stages.0.blocks.0.mlp.fc2"),  # between them a scale of the block
        slow("timm:resnetv2_50", "layers", "stages.0.blocks.0.conv3"),
    ],
)
def test_the_layer_is_found_in_and_before_hosts_of_all_kinds(spec, where, layer):
    where = "stages.0.**.conv3" if where == "layers" else where
    model = grown(spec, where=where)
    constants, x = random_constants(model), image_batch(2, *SIZE)
    folded, parts = fold_grafts(model, constants, x)
    assert_close(logits(folded, x), with_constants(model, constants, x))
    assert parts[0].action == f"folded into {layer}"
    assert ag.grafts(folded) == {}
    assert graft_plan(folded) is None
    assert not any(module._forward_hooks for module in folded.modules())


class OneSite(nn.Module):
    """A body whose output is gated, and a head that looks at all of it."""

    def __init__(self, body, channels=8):
        super().__init__()
        self.body = body
        self.head = nn.Conv2d(channels, 3, 1)

    def forward(self, x):
        return self.head(self.body(x))


def test_a_host_without_weights_takes_the_layer_before_it():
    body = torchvision.models.vgg.make_layers([8, "M", 16, 16, "M"], batch_norm=True)
    model = stir_grafts_(ag.graft(settle_(OneSite(body, 16)).eval(), "cbam", where="pool", input_size=SIZE))
    assert list(ag.grafts(model)) == ["body.2", "body.9"]  # activations
    constants, x = random_constants(model), image_batch(2, *SIZE)
    folded, parts = fold_grafts(model, constants, x)
    assert_close(logits(folded, x), with_constants(model, constants, x))
    assert [part.action for part in parts[::2]] == ["folded into body.1", "folded into body.8"]


class Function(nn.Module):
    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x):
        return self.function(self.layer(x))


def fold_one(body, value, where="body", channels=8):
    """The body with a constant channel gate: (folded model, its action, original, constants)."""
    model = ag.graft(settle_(OneSite(body, channels)).eval(), "se", where=where, input_size=SIZE)
    (path,) = ag.grafts(model)
    constants = {path: {"channel": value}}
    folded, (part,) = fold_grafts(model, constants, image_batch(4, *SIZE))
    x = image_batch(4, *SIZE, seed=5)
    assert_close(logits(folded, 20 * x), with_constants(model, constants, 20 * x))
    return folded, part.action, model


GATE = torch.linspace(0.3, 1.7, 8)


@pytest.mark.parametrize(
    ("body", "layer"),
    [
        (lambda: nn.Conv2d(3, 8, 3), "body"),
        (lambda: nn.Conv2d(3, 8, 3, bias=False), "body"),
        (lambda: nn.ConvTranspose2d(3, 8, 3), "body"),
        (lambda: Function(nn.Conv2d(3, 8, 3), torch.relu), "body.layer"),
        (lambda: Function(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)), torch.relu), "body.layer.1"),
        (lambda: Function(nn.Sequential(nn.Conv2d(3, 8, 1), timm.layers.LayerNorm2d(8)), torch.relu), "body.layer.1"),
        (
            lambda: Function(nn.Sequential(nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8, affine=True)), torch.abs),
            "body.layer.1",
        ),
        (
            lambda: Function(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.PReLU(8)), torch.relu),
            "body.layer.1",
        ),
        (lambda: Function(nn.Sequential(nn.Conv2d(3, 8, 1), nn.LeakyReLU()), torch.relu), "body.layer.0"),
        (lambda: Function(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)), torch.relu), "body.layer.0"),
        (lambda: timm.layers.BatchNormAct2d(8), "body"),
        (lambda: timm.layers.ConvNormAct(3, 8), "body.bn"),
        (lambda: Function(torchvision.ops.Conv2dNormActivation(3, 8), torch.relu), "body.layer.1"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), torchvision.ops.FrozenBatchNorm2d(8)), "body.1"),
        (
            lambda: Function(nn.Linear(3, 8), lambda y: y).requires_grad_(False),
            "body.layer",
        ),
    ],
)
def test_layers_that_take_a_gate(body, layer):
    made = body()
    if isinstance(made, timm.layers.BatchNormAct2d):
        folded, action, _ = fold_on_input(made)
    elif isinstance(getattr(made, "layer", None), nn.Linear):
        folded, action, _ = fold_one(ChannelsLast(made.layer), GATE)
    else:
        folded, action, _ = fold_one(made, GATE)
    assert action == f"folded into {layer}"
    assert ag.grafts(folded) == {}


class ChannelsLast(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def fold_on_input(body):
    """A norm needs as many channels as it has: a stem before it."""

    class Stemmed(OneSite):
        def __init__(self):
            super().__init__(body)
            self.stem = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return super().forward(self.stem(x))

    model = ag.graft(settle_(Stemmed()).eval(), "se", where="body", input_size=SIZE)
    folded, (part,) = fold_grafts(model, {"body": {"channel": GATE}}, image_batch(4, *SIZE))
    x = image_batch(4, *SIZE, seed=5)
    assert_close(logits(folded, 20 * x), with_constants(model, {"body": {"channel": GATE}}, 20 * x))
    return folded, part.action, model


class Twice(nn.Module):
    """Its layer makes the output of the body and also something else."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Conv2d(3, 8, 1), nn.ReLU()

    def forward(self, x):
        y = self.layer(x)
        return self.last(y) + y.mean((1, 2, 3), keepdim=True)


class Tied(nn.Module):
    """One layer that runs for two."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1)
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 1), Function(self.layer, torch.relu), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.head(self.body(self.layer(self.stem(x)).abs()))


@pytest.mark.parametrize(
    "body",
    [
        lambda: Function(nn.Conv2d(3, 8, 1), nn.functional.relu6),
        lambda: Function(nn.Conv2d(3, 8, 1), nn.functional.gelu),
        lambda: Function(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6()), torch.relu),
        lambda: Function(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False)), torch.relu),
        lambda: Function(nn.Conv2d(3, 8, 1), lambda y: y + 1),
        lambda: Function(nn.Conv2d(3, 4, 1), lambda y: torch.cat([y, y], 1)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 1)),
        lambda: timm.layers.ScaledStdConv2d(3, 8, 1),
        lambda: Twice(),
    ],
)
def test_where_no_layer_takes_the_gate_over_a_scale_is_left(body):
    folded, action, model = fold_one(body(), GATE)
    assert action == "left as a scale"
    (scale,) = ag.grafts(folded).values()
    assert_close(scale.scale.detach(), GATE)
    assert graft_plan(folded).at("body").attention == "static"
    # nothing else has changed
    before = {key: value for key, value in model.state_dict().items() if ".graft." not in key}
    assert all(torch.equal(folded.state_dict()[key], value) for key, value in before.items())


def test_a_layer_that_runs_twice_is_left_alone():
    model = ag.graft(Tied().eval(), "se", where="body", input_size=SIZE)
    folded, (part,) = fold_grafts(model, {"body": {"channel": GATE}}, image_batch(2, *SIZE))
    assert part.action == "left as a scale"
    x = image_batch(2, *SIZE, seed=4)
    assert_close(logits(folded, x), with_constants(model, {"body": {"channel": GATE}}, x))


def test_a_tensor_that_two_layers_share_is_left_alone():
    model = OneSite(nn.Conv2d(8, 8, 1))
    model.stem = nn.Conv2d(8, 8, 1)
    model.stem.weight = model.body.weight
    model = ag.graft(nn.Sequential(nn.Conv2d(3, 8, 1), model.stem, model).eval(), "se", where="2.body", input_size=SIZE)
    _, (part,) = fold_grafts(model, {"2.body": {"channel": GATE}}, image_batch(2, *SIZE))
    assert part.action == "left as a scale"


def test_a_negative_gate_does_not_pass_a_relu():
    value = GATE.clone()
    value[3] = -0.5
    assert fold_one(Function(nn.Conv2d(3, 8, 1), torch.relu), value)[1] == "left as a scale"
    assert fold_one(nn.Conv2d(3, 8, 1), value)[1] == "folded into body"


def test_the_output_of_a_whole_block_cannot_be_scaled_by_one_layer():
    model = grown("timm:resnet18", "se", where="stage", size=(3, 64, 64))
    constants, x = random_constants(model), image_batch()
    folded, parts = fold_grafts(model, constants, x)
    assert_close(logits(folded, x), with_constants(model, constants, x))
    actions = {part.path: part.action for part in parts}
    assert actions.pop("act1") == "folded into bn1"
    assert set(actions.values()) == {"left as a scale"}
    assert list(ag.grafts(folded)) == list(actions)
    again, parts = fold_grafts(folded, {p: {"channel": a.scale} for p, a in ag.grafts(folded).items()}, x)
    assert {part.action for part in parts} == {"kept"}
    assert torch.equal(logits(again, x), logits(folded, x))


@pytest.mark.parametrize("attention", attentions())
def test_neutral_gates_leave_without_a_trace(attention):
    model = grown("timm:test_resnet", attention)
    before = plain("timm:test_resnet")
    constants = {
        path: {part: torch.tensor(a.neutral) + 4e-7 for part in a.parts} for path, a in ag.grafts(model).items()
    }
    if attention in ADDED:
        constants = {path: {"offset": torch.zeros(1)} for path in constants}
    elif attention == "bam":  # its parts are logits: at 0 the published gate is not 1
        constants = {path: {"channel": torch.zeros(1), "spatial": torch.zeros(1)} for path in constants}
    folded, parts = fold_grafts(model, constants, image_batch(2, *SIZE))
    assert {part.action for part in parts} == {"removed"}
    assert list(folded.state_dict()) == list(before.state_dict())
    assert all(torch.equal(value, folded.state_dict()[key]) for key, value in before.state_dict().items())
    x = image_batch(2, *SIZE)
    assert torch.equal(logits(folded, x), logits(before, x))


def test_what_is_added_is_not_folded():
    model = grown("small-cnn", "capacity")
    constants = {path: {"offset": torch.tensor(0.5)} for path in ag.grafts(model)}
    folded, parts = fold_grafts(model, constants, image_batch(2, *SIZE))
    assert {part.action for part in parts} == {"kept"}
    assert "no layer takes that over" in parts[0].reason
    assert torch.equal(logits(folded, image_batch(2, *SIZE)), logits(model, image_batch(2, *SIZE)))


ORDERS = ("channel-spatial", "spatial-channel", "parallel")


def half_fixed(order, part, value):
    """The gates of a CBAM with one half constant, the other computed from what it really sees."""

    def compute(attention, x):
        given = getattr(constant_gates({part: value}, x), part)
        if part == "channel":
            seen = given if order == "channel-spatial" else None
            return Gates(channel=given, spatial=attention.spatial.spatial_gate(x, seen))
        seen = given.expand(len(x), *x.shape[2:]).contiguous() if order == "spatial-channel" else None
        return Gates(channel=attention.channel.channel_gate(x, seen), spatial=given)

    return compute


def fold_half(order, part, value, init="identity", **options):
    model = grown("small-cnn", init=init, order=order, kernel_size=3, **options)
    constants = {path: {part: value[: 1 if part == "spatial" else a.channels]} for path, a in ag.grafts(model).items()}
    x = image_batch(3, *SIZE)
    with computing(model, {p: half_fixed(order, part, c[part]) for p, c in constants.items()}), torch.no_grad():
        expected = model(x)
    folded, parts = fold_grafts(model, constants, x)
    return folded, parts, expected, logits(folded, x), logits(model, x)


WIDE = torch.linspace(0.5, 1.5, 512)


@pytest.mark.parametrize("init", ["identity", "paper"])
@pytest.mark.parametrize("order", ORDERS)
def test_cbam_with_a_constant_position_gate_becomes_its_channel_half(order, init):
    folded, parts, expected, got, _ = fold_half(order, "spatial", WIDE, init, reduction=8, poolings="avg")
    assert_close(got, expected)
    assert [part.action for part in parts[:2]] == ["reduced to cbam-channel", "folded into block1.1"]
    assert graft_plan(folded).overrides[parts[0].path].options == {"reduction": 8, "poolings": "avg"}


def test_cbam_with_a_constant_channel_gate_becomes_its_spatial_half():
    folded, parts, expected, got, _ = fold_half("channel-spatial", "channel", WIDE)
    assert_close(got, expected)
    assert [part.action for part in parts[:2]] == ["folded into block1.1", "reduced to cbam-spatial"]
    assert graft_plan(folded).overrides[parts[0].path].options == {"kernel_size": 3}


@pytest.mark.parametrize("order", ORDERS[1:])
def test_a_spatial_half_that_does_not_see_the_channel_gate_stays_unless_that_gate_is_1(order):
    _, parts, _, got, before = fold_half(order, "channel", WIDE)
    assert {part.action for part in parts} == {"kept"}
    assert torch.equal(got, before)
    _, parts, expected, got, _ = fold_half(order, "channel", torch.ones(512))
    assert [part.action for part in parts[:2]] == ["removed", "reduced to cbam-spatial"]
    assert_close(got, expected)


@pytest.mark.parametrize(("attention", "part"), [("light-cbam", "channel"), ("scse", "spatial"), ("coord", "rows")])
def test_where_no_smaller_attention_exists_the_whole_one_stays(attention, part):
    model = grown("small-cnn", attention)
    constants = {path: {part: torch.ones(1)} for path in ag.grafts(model)}
    folded, parts = fold_grafts(model, constants, image_batch(2, *SIZE))
    assert {p.action for p in parts} == {"kept"}
    assert next(p.reason for p in parts if p.part == part).startswith("no smaller attention")
    assert next(p.reason for p in parts if p.part != part) == "it depends on the image"
    assert torch.equal(logits(folded, image_batch(2, *SIZE)), logits(model, image_batch(2, *SIZE)))


def test_a_half_is_kept_whole_where_its_constant_half_has_no_layer():
    body = Function(nn.Conv2d(3, 8, 1), nn.functional.gelu)
    model = stir_grafts_(ag.graft(OneSite(body).eval(), "cbam", where="body", input_size=SIZE))
    folded, parts = fold_grafts(model, {"body": {"channel": GATE}}, image_batch(2, *SIZE))
    assert {part.action for part in parts} == {"kept"}
    assert graft_plan(folded) == graft_plan(model)


def test_nothing_constant_changes_nothing():
    model = grown("small-cnn")
    x = image_batch(2, *SIZE)
    folded, parts = fold_grafts(model, {}, x)
    assert {(part.action, part.reason) for part in parts} == {("kept", "it depends on the image")}
    assert torch.equal(logits(folded, x), logits(model, x))
    assert graft_plan(folded) == graft_plan(model)


def test_the_original_keeps_modes_hooks_and_gradients():
    model = grown("small-cnn").train()
    next(model.parameters()).requires_grad_(False)
    facts = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    folded, _ = fold_grafts(model, random_constants(model), image_batch(2, *SIZE))
    assert [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == facts
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not next(folded.parameters()).requires_grad
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module.training for module in folded.modules())


def mixed():
    """A folded model with reduced sites, some that are scales, one that is untouched; and images."""
    model = grown("timm:test_resnet", where="residual+stage")
    constants, x = random_constants(model), image_batch(2, *SIZE)
    for path in ("layer1.0.bn2", "layer2.0.bn2"):
        del constants[path]["spatial"]
    del constants["layer3.0.bn3"]
    return fold_grafts(model, constants, x)[0], x


def test_a_folded_model_is_saved_and_loaded(tmp_path):
    folded, x = mixed()
    note_fold_(folded, FoldNote((("bn1", "channel", "folded into bn1"),), 0.01, 100, "runs/one", "abc"))
    plan = graft_plan(folded)
    assert {plan.at(site.path).attention for site in plan.sites} == {"cbam", "static", "cbam-spatial"}
    loaded = ag.load(ag.save(folded, tmp_path))
    assert torch.equal(logits(loaded, x), logits(folded, x))
    assert graft_plan(loaded) == plan
    assert fold_note(loaded) == describe_saved(tmp_path).folded == fold_note(folded)
    check_live(loaded)
    assert list(ag.grafts(loaded)) == list(ag.grafts(folded))


def test_a_model_that_lost_every_graft_is_a_plain_one(tmp_path):
    model = grown("small-cnn")
    folded, _ = fold_grafts(model, random_constants(model), image_batch(2, *SIZE))
    check_live(folded)
    file = ag.save(folded, tmp_path)
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["attngraft"])
    assert header["plan"] is None
    assert "folded" not in header
    loaded = ag.load(tmp_path)
    assert torch.equal(logits(loaded, image_batch(2, *SIZE)), logits(folded, image_batch(2, *SIZE)))
    again = ag.graft(loaded, "se", input_size=SIZE)  # as any other backbone
    assert torch.equal(logits(again, image_batch(2, *SIZE)), logits(folded, image_batch(2, *SIZE)))


@pytest.mark.slow  # a folded model has no hooks, and grafted ones compile and export elsewhere
def test_a_folded_model_compiles_and_exports():
    folded, x = mixed()
    compiled = torch.compile(folded, backend="eager", fullgraph=True)
    assert_close(logits(compiled, x), logits(folded, x))
    exported = torch.export.export(folded, (x,)).module()
    assert_close(logits(exported, x), logits(folded, x))


def test_half_precision_and_compiled_models_are_folded():
    model = grown("small-cnn", "se").to(torch.bfloat16)
    constants, x = random_constants(model), image_batch(2, *SIZE).bfloat16()
    folded, parts = fold_grafts(torch.compile(model, backend="eager"), constants, x)
    assert all(part.action.startswith("folded") for part in parts)
    assert {value.dtype for value in folded.parameters()} == {torch.bfloat16}
    assert_close(logits(folded, x), with_constants(model, constants, x), tolerance=0.05)


def test_the_effective_scale_follows_the_rule_of_the_attention():
    triplet = ag.create_attention("triplet", 2)
    given = {"rows": torch.tensor([0.5, 1.0]), "columns": torch.tensor([1.0, 2.0]), "spatial": torch.tensor(0.3)}
    assert torch.allclose(effective_scale(triplet, given), torch.tensor([0.6, 1.1]))
    scse = ag.create_attention("scse", 2)
    assert torch.allclose(
        effective_scale(scse, {"channel": torch.tensor([0.1, 0.2]), "spatial": torch.tensor(0.5)}),
        torch.tensor([0.6, 0.7]),
    )
    bam = ag.create_attention("bam", 2, init="paper")
    given = {"channel": torch.tensor([0.0, 2.0]), "spatial": torch.tensor(1.5)}
    assert torch.allclose(effective_scale(bam, given), 1 + torch.sigmoid(torch.tensor([0.0, 3.0])))


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"block1.9": {"channel": torch.ones(1)}}, "no graft is live at 'block1.9': did you mean"),
        ({"block1.2": {"chanel": torch.ones(1)}}, "has no part 'chanel': did you mean 'channel'"),
        ({"block1.2": {"channel": torch.ones(5)}}, "has 5 numbers: expected 1 or 32"),
        ({"block1.2": {"spatial": torch.ones(32)}}, "has 32 numbers: expected 1"),
    ],
)
def test_constants_that_do_not_fit_are_refused(constants, message):
    with pytest.raises(GraftError, match=message):
        fold_grafts(grown("small-cnn"), constants, image_batch(2, *SIZE))


def test_models_without_grafts_and_wrong_examples_are_refused():
    with pytest.raises(GraftError, match="no grafts"):
        fold_grafts(ag.create_backbone("small-cnn"), {}, image_batch(2, *SIZE))
    with pytest.raises(GraftError, match="cannot process the example"):
        fold_grafts(grown("small-cnn"), {}, image_batch(2, 5, 32, 32))


def test_a_traced_model_is_refused():
    traced = torch.fx.symbolic_trace(grown("small-cnn", "se"))
    with pytest.raises(GraftError, match="not what they were put into, as a tool rebuilt it: fold it before"):
        fold_grafts(traced, {}, image_batch(2, *SIZE))


def test_a_model_with_a_lost_graft_is_refused():
    model = grown("small-cnn", "se")
    next(iter(model.get_submodule(path) for path in ag.grafts(model)))._forward_hooks.clear()
    with pytest.raises(GraftError, match="not live any more"):
        fold_grafts(model, {}, image_batch(2, *SIZE))
