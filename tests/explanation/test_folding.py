"""What folds away is measured: the tolerance holds on the images, what depends on them stays, nothing else changes."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import attngraft as ag
from attngraft.attention import attentions
from attngraft.costs import count_parameters
from attngraft.errors import ConfigError, DataError, GraftError, RunError
from attngraft.explanation.folding import as_constants, candidates, fold, unlikely_loss_of
from attngraft.explanation.image_source import View, view_of
from attngraft.surgery import FoldNote, find_head, fold_note, graft_plan, note_fold_
from attngraft.surgery.serialization import MODEL_FILE

SIDE = 32


def labelled(model, count=24, side=SIDE, seed=0, labels=None):
    """Noise and labels; the model's own answers unless others are given."""
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    if labels is None:
        labels = answers(model, x)
    view = view_of(model, x)
    return View(view.ids, np.asarray(labels), view.classes, view.preprocessing, tensor=x)


@torch.no_grad()
def answers(model, x):
    return copy.deepcopy(model).eval()(x).argmax(1).numpy()


@cache  # a graft copies it
def settled(spec, classes=5):
    """A network whose normalisations are those of real images, so that it tells images apart."""
    torch.manual_seed(0)
    model = ag.create_backbone(spec, num_classes=classes, pretrained=False)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, 3, SIDE, SIDE))
    return model.eval()


def make_static_(model, shift):
    """Gates that do not look at the image: the last layers of a CBAM are zero, but for what they add."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for attention in ag.grafts(model).values():
            last, norm = attention.channel.mlp.fc2, attention.spatial.logits.bn
            last.weight.zero_()
            last.bias.copy_(shift * torch.randn(len(last.bias), generator=generator))
            norm.weight.zero_()
            norm.bias.fill_(shift)
    return model


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_static_gates_leave_a_plain_network_that_computes_the_same(shift):
    resnet = settled("timm:resnet18")
    model = make_static_(ag.graft(resnet, "cbam", input_size=(3, 64, 64)), shift)
    view = labelled(model, 8, 64)
    found = fold(model, view, tolerance=0)
    assert ag.grafts(found.model) == {}
    assert list(found.model.state_dict()) == list(resnet.state_dict())
    assert count_parameters(found.model) == count_parameters(resnet)
    assert [type(m) for m in found.model.modules()] == [type(m) for m in resnet.modules()]
    assert not any(m._forward_hooks for m in found.model.modules())
    with torch.no_grad():
        got, expected = found.model(view.tensor), model(view.tensor)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert found.sites_gone == found.sites_in_all == 8
    assert found.before.score == found.after.score == 1.0
    if shift == 0:
        assert {part.action for part in found.sites} == {"removed"}
        assert all(torch.equal(v, found.model.state_dict()[k]) for k, v in resnet.state_dict().items())
        assert found.largest_output_change <= 1e-5
    else:
        assert {part.action.split()[0] for part in found.sites} == {"folded"}
    assert all(part.swing < 1e-6 and part.change < 1e-6 for part in found.sites)


@torch.no_grad()
def balance_(model, view):
    """Let every class be the answer to some images: the labels of an untrained network are else all the same."""
    head = model.get_submodule(find_head(model).layers[0])
    head.bias -= model(view.tensor).mean(0)
    return model


class Bright(nn.Module):
    """Its only channel is all ones; the label is whether the gate that is computed from the image is large."""

    def __init__(self):
        super().__init__()
        self.host, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.host(x)).mean((2, 3))


def deciding():
    """A model that is right only while its channel gates look: dark and light images differ in the gate alone."""
    model = Bright()
    with torch.no_grad():
        model.host.weight.zero_()
        model.host.bias.fill_(1.0)
        model.host.weight[3] = 1.0  # the mean of the image, and this channel the head does not look at
        model.host.bias[3] = 0.0
        model.head.weight.zero_()
        model.head.weight[1, 0] = 1.0
        model.head.bias.copy_(torch.tensor([0.0, -1.0]))
    model = ag.graft(model.eval(), "se", where="host", input_size=(3, 8, 8), reduction=1)
    (attention,) = ag.grafts(model).values()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        attention.mlp.fc1.weight[0, 3] = 1.0
        attention.mlp.fc2.weight[0, 0] = 1.0
        attention.mlp.fc2.bias[0] = -1.5
    levels = torch.linspace(0, 0.9, 20)
    x = levels.view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    view = view_of(model, x)
    labels = answers(model, x)
    assert 5 <= labels.sum() <= 15
    return model, View(view.ids, labels, view.classes, view.preprocessing, tensor=x)


def test_gates_that_decide_are_kept():
    model, view = deciding()
    found = fold(model, view, tolerance=0.3)
    (part,) = found.sites
    assert part.action == "kept"
    assert "lose more than 30 points" in part.reason
    assert part.dynamic > 0
    assert found.before.score == found.after.score == 1.0
    assert found.sites_gone == 0
    assert fold_note(found.model) is None
    assert "0 of 1 site fold away: accuracy 100.0 % before and 100.0 % after on 20 images" in str(found)


def test_with_a_wide_tolerance_they_go_and_the_loss_is_told():
    model, view = deciding()
    found = fold(model, view, tolerance=1.0)
    assert found.sites[0].action == "folded into host"
    loss = found.before.score - found.after.score
    assert loss > 0.3
    assert found.effect.mean == pytest.approx(-loss)
    assert found.effect.low < found.effect.mean < found.effect.high
    assert found.to_json()["after"]["top1"] == pytest.approx(1 - loss)
    assert f"({-100 * loss:+.1f} points" in str(found)


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.3, 0.6])
def test_the_tolerance_holds_on_the_images(tolerance):
    model = ag.graft(settled("small-cnn"), "cbam", input_size=(3, SIDE, SIDE))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for attention in ag.grafts(model).values():
            for parameter in attention.parameters():
                parameter += 0.7 * torch.randn(parameter.shape, generator=generator)
    view = labelled(balance_(model, labelled(model, 30)), 30)
    assert len(set(view.labels)) >= 4
    found = fold(model, view, tolerance=tolerance)
    again = answers(found.model, view.tensor)
    assert (again != view.labels).mean() <= tolerance
    assert (again == view.labels).tolist() == found.after.correct.tolist()
    kept = [part.change for part in found.sites if part.action == "kept"]
    gone = [part.change for part in found.sites if part.action not in ("kept", "reduced to cbam-spatial")]
    assert not kept or not gone or max(gone) <= min(kept)
    if tolerance in (0.0, 0.6):
        assert kept if tolerance == 0 else gone


def test_a_wider_tolerance_folds_no_less():
    model, view = deciding()
    assert [fold(model, view, tolerance=t).sites_gone for t in (0.0, 0.2, 1.0)] == [0, 0, 1]


@pytest.mark.parametrize("attention", attentions())
def test_every_attention_with_identical_gates_folds_or_says_why(attention):
    model = ag.graft(settled("small-cnn"), attention, input_size=(3, SIDE, SIDE))
    view = labelled(model, 6)
    found = fold(model, view, tolerance=0)
    with torch.no_grad():
        assert torch.allclose(found.model(view.tensor), model(view.tensor), atol=1e-5)
    gone = {part.path for part in found.sites if part.action == "removed"}
    assert found.sites_gone == len(gone) == found.sites_in_all  # an attention that starts as the identity


def test_the_model_is_not_changed():
    model = ag.graft(settled("small-cnn"), "cbam", input_size=(3, SIDE, SIDE)).train()
    model.block1.eval()
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    fold(model, labelled(model, 6), tolerance=1.0)
    assert [m.training for m in model.modules()] == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all("forward" not in m.__dict__ for m in model.modules())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("step", ["how gates vary", "latency"])
def test_an_interrupt_leaves_the_model_as_it_was(step):
    model = ag.graft(settled("small-cnn"), "se", input_size=(3, SIDE, SIDE)).train()
    modes = [m.training for m in model.modules()]

    def stop(name):
        if name == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fold(model, labelled(model, 6), progress=stop)
    assert [m.training for m in model.modules()] == modes
    assert all("forward" not in m.__dict__ for m in model.modules())


def test_candidates_by_hand():
    """Two images, gates 0.5 and 1.5 on a map of ones: the mean gate 1 changes half of 0.5 and half of 1.5."""
    model, _ = deciding()
    (attention,) = ag.grafts(model).values()
    with torch.no_grad():
        attention.mlp.fc2.weight.zero_()
        attention.mlp.fc2.bias.fill_(0.0)
        attention.mlp.fc2.weight[0, 0] = 2 * math.log(3)  # 2 sigmoid(log 3) = 1.5
        attention.mlp.fc2.bias[0] = -math.log(3)
        model.host.bias[1:] = 0.0
    x = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 1 / 3)])
    view = view_of(model, x)
    (found,) = candidates(model, view)
    assert found.constant.tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0])
    assert found.swing == pytest.approx(math.sqrt(0.25 / 4))
    # channel 0: (0.5, 1.5) -> 1, over 64 positions; channel 3 is 0 and 1 with the gate 1
    assert found.change == pytest.approx(math.sqrt(0.5 / (0.25 + 2.25 + 1)))
    assert as_constants([found]) == {"host": {"channel": found.constant}}


def test_json_sentence_and_parts():
    model = ag.graft(settled("small-cnn"), "cbam", input_size=(3, SIDE, SIDE))
    found = fold(model, labelled(model, 6))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(document) == {
        "sites", "before", "after", "effect", "largest_output_change", "latency_ms", "tolerance", "images",
        "sites_in_all", "sites_gone", "unlikely_loss",
    }  # fmt: skip
    assert set(document["sites"][0]) >= {"path", "part", "action", "reason", "dynamic", "swing"}
    assert set(document["latency_ms"]["before"]) == {"median", "q1", "q3", "n", "batch_size"}
    assert document["latency_ms"]["after"]["batch_size"] == 8
    assert [(p["path"], p["part"]) for p in document["sites"]] == [
        (site.path, part) for site in graft_plan(model).sites for part in ("channel", "spatial")
    ]
    assert str(found).startswith("3 of 3 sites fold away: accuracy ")
    assert str(found).count(". ") == 0


def test_groups_of_images_are_the_unit_of_what_is_excluded():
    model = ag.graft(settled("small-cnn"), "cbam", input_size=(3, SIDE, SIDE))
    view = labelled(model, 24)
    grouped = replace(view, groups=np.repeat(["a", "b", "c"], 8))
    alone, together = (fold(model, images, tolerance=0.2) for images in (view, grouped))
    assert (alone.groups, together.groups) == (None, 3)
    assert together.effect.images == 3
    assert together.unlikely_loss > alone.unlikely_loss > alone.tolerance / 2
    assert "on 24 images in 3 groups (" in str(together)


def test_a_loss_is_not_excluded_by_few_images_that_differ():
    lost = np.zeros(400, np.int64)
    assert unlikely_loss_of(lost, None) == pytest.approx(1 - 0.025 ** (1 / 400), rel=0.5)
    lost[:2] = -1
    assert unlikely_loss_of(lost, None) > 0.013  # 2 of 400 fit a loss of 1.3 points
    assert unlikely_loss_of(lost, np.repeat(np.arange(40), 10)) > 0.05


def chosen_fold(rng, images, rates, tolerance):
    """As `fold` chooses: bisection for the longest beginning whose loss on these images is allowed."""
    worst = rng.random(images)
    best, low, high = 0, 0, len(rates)
    while high - low > 1:
        middle = (low + high) // 2
        allowed = np.mean(worst < rates[middle]) <= tolerance
        best, low, high = (middle, middle, high) if allowed else (best, low, middle)
    return -(worst < rates[best]).astype(np.int64), rates[best]


def excluded_wrongly(images, tolerance, experiments):
    """How often the loss that a fold has is said to be unlikely."""
    rng = np.random.default_rng([images, int(1000 * tolerance)])
    rates = np.linspace(0.0, 0.05, 41)
    found = (chosen_fold(rng, images, rates, tolerance) for _ in range(experiments))
    return np.mean([unlikely_loss_of(difference, None) < truth - 1e-12 for difference, truth in found])


def test_the_loss_of_a_chosen_fold_is_rarely_excluded():
    assert excluded_wrongly(400, 0.005, 200) <= 0.05 + 0.03


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("images", [100, 400, 1000, 2500])
def test_the_loss_of_a_chosen_fold_is_rarely_excluded_in_the_grid(images, tolerance):
    assert excluded_wrongly(images, tolerance, 2000) <= 0.07


def test_writing_notes_the_source_and_refuses_to_replace(tmp_path):
    model = make_static_(ag.graft(settled("small-cnn"), "cbam", input_size=(3, SIDE, SIDE)), 0.3)
    source = ag.save(model, tmp_path / "run", classes=list("abcde"))
    found = fold(ag.load(tmp_path / "run"), labelled(model, 6))
    path = found.write(tmp_path / "folded", source=tmp_path / "run")
    assert path == tmp_path / "folded" / MODEL_FILE
    assert json.loads((tmp_path / "folded" / "fold.json").read_text())["sites_gone"] == 3
    loaded = ag.load(tmp_path / "folded")
    note = fold_note(loaded)
    assert note.source == str(tmp_path / "run")
    assert len(note.sha256) == 64
    assert note.parts[0] == ("block1.2", "channel", "folded into block1.1")
    x = labelled(model, 6).tensor
    with torch.no_grad():
        assert torch.equal(loaded(x), found.model(x))
    for folder in ("folded", "run"):
        with pytest.raises(RunError, match="is there already"):
            found.write(tmp_path / folder)
    assert source.exists()


def test_folding_again_keeps_the_earlier_note():
    model = ag.graft(settled("small-cnn"), "se", input_size=(3, SIDE, SIDE))
    earlier = ("stem", "channel", "removed")
    found = fold(note_fold_(model, FoldNote((earlier,), 0.1, 7)), labelled(model, 4), tolerance=0)
    assert fold_note(found.model).parts == (earlier, *((part.path, part.part, "removed") for part in found.sites))
    assert (fold_note(found.model).tolerance, fold_note(found.model).images) == (0, 4)
    assert fold_note(model).parts == (earlier,)


def test_what_cannot_be_folded_is_refused():
    model = ag.graft(settled("small-cnn"), "se", input_size=(3, SIDE, SIDE))
    view = labelled(model, 4)
    for tolerance in (-0.1, 1.5, math.nan, "a"):
        with pytest.raises(ConfigError, match="tolerance is"):
            fold(model, view, tolerance=tolerance)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        fold(model, view, batch_size=0)
    with pytest.raises(GraftError, match="no grafts"):
        fold(ag.create_backbone("small-cnn"), view)
    with pytest.raises(DataError, match="folding needs labels"):
        fold(model, view.tensor)
    with pytest.raises(DataError, match="at least two"):
        fold(model, view.select([0]))
