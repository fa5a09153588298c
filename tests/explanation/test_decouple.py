"""Taking attention apart: models whose truth is known, real small ones, and everything left as it was."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import attngraft as ag
from attngraft.attention import Attention, Gates
from attngraft.config import Preprocessing, to_dict
from attngraft.errors import ConfigError, DataError, GraftError, TrainingError
from attngraft.explanation.ablations import Scores, cell_effects, halves_of
from attngraft.explanation.decouple import _batch_size, _derangement, decouple
from attngraft.explanation.explanation_record import Decoupling
from attngraft.explanation.image_source import View, view_of
from attngraft.surgery import computing, grafts
from attngraft.tasks.classification import brier, calibration_error
from attngraft.training import Evaluation, EvaluationContext, Silent, evaluate

NOT_MEASURED = {"speed_up"}


def view_from(images: Tensor, labels: Any) -> View:
    """Prepared inputs with labels."""
    names = tuple(str(i) for i in range(len(images)))
    classes = tuple(str(i) for i in range(int(np.max(labels)) + 1))
    return View(names, np.asarray(labels, np.int64), classes, Preprocessing(image_size=4), tensor=images)


class SignNet(nn.Module):
    """Cannot tell dark from bright without channel gates: two channels are equal, a third holds the answer unused.

    Each host passes the three channels on; the logits are the means of the first two.
    """

    def __init__(self, sites: int = 1) -> None:
        super().__init__()
        first = nn.Conv2d(1, 3, 1)
        others = [nn.Conv2d(3, 3, 1) for _ in range(sites - 1)]
        with torch.no_grad():
            first.weight.copy_(torch.tensor([0.0, 0.0, 1.0]).reshape(3, 1, 1, 1))
            first.bias.copy_(torch.tensor([1.0, 1.0, 0.0]))
            for conv in others:
                conv.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1))
                conv.bias.zero_()
        self.hosts = nn.ModuleList([first, *others])

    def forward(self, x: Tensor) -> Tensor:
        for host in self.hosts:
            x = host(x)
        return 20 * x[:, :2].mean((2, 3))


def sign_model(sites: int = 1, strength: float = 10.0, attention: str = "cbam") -> nn.Module:
    """Channel gates answer: they favour the first channel where the third is above 0; spatial gates are all 1."""
    model = SignNet(sites).eval()
    where = "+".join(f"hosts.{i}" for i in range(sites))
    model = ag.graft(model, attention, where=where, input_size=(1, 4, 4), reduction=1)
    for graft in grafts(model).values():
        mlp = (graft.channel if attention == "cbam" else graft).mlp
        with torch.no_grad():
            mlp.fc1.weight.copy_(torch.tensor([[0, 0, 1.0], [0, 0, -1.0], [0, 0, 0]]))
            mlp.fc1.bias.zero_()
            mlp.fc2.weight.copy_(strength * torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]]))
            mlp.fc2.bias.zero_()
    return model


def signed_images(count: int = 40) -> View:
    """Images of one value each, half of them below 0: class 1."""
    values = torch.linspace(-1, 1, count)
    return view_from(values.reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone(), (values < 0).long().numpy())


@pytest.fixture(scope="module")
def digits() -> View:
    return view_of(real_model(), ag.load_data("cluttered-digits", image_size=32, limit=40))


def real_model(attention: str = "cbam", **options: Any) -> nn.Module:
    """A real network that is better than chance and whose attention is not the identity."""
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=10), attention, **options).eval()
    with torch.no_grad():
        for graft in grafts(model).values():
            for parameter in graft.parameters():
                parameter += 0.3 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="module")
def found(digits: View) -> Decoupling:
    return decouple(real_model(), digits, subset=30)


# What is known beforehand


def test_a_half_that_does_everything_has_the_whole_share() -> None:
    decoupling = decouple(sign_model(), signed_images())
    assert decoupling.intact.top1 == 1.0
    assert decoupling.total.accuracy.mean == 0.5
    channel, spatial = decoupling.halves
    assert (channel.part, spatial.part) == ("channel", "spatial")
    assert (channel.share, channel.share_low, channel.share_high) == (1.0, 1.0, 1.0)
    assert (spatial.share, spatial.accuracy.mean, spatial.loss.mean) == (0.0, 0.0, 0.0)
    assert channel.loss_share == 1.0
    assert decoupling.cell("everywhere", "spatial off").effect.mean == 0.0
    assert decoupling.cell("everywhere", "all off").top1 == 0.5


def test_shuffled_gates_answer_for_the_other_image_and_mean_gates_for_none() -> None:
    view = signed_images(60)
    decoupling = decouple(sign_model(), view, batch_size=60)
    shuffled, mean = (decoupling.cell("everywhere", name) for name in ("gates shuffled", "gates at their mean"))
    assert 0.25 < shuffled.top1 < 0.75
    assert shuffled.loss > 3, "the other image's class is given with confidence"
    assert mean.top1 == 0.5
    assert mean.loss == pytest.approx(np.log(2), abs=1e-3)


def test_sites_that_can_replace_each_other_share_equally() -> None:
    decoupling = decouple(sign_model(sites=2), signed_images())
    one, other = decoupling.sites
    assert one.accuracy.mean == other.accuracy.mean == 0.25
    assert (one.sampling_error, decoupling.permutations) == (0.0, 2)
    (pair,) = decoupling.interactions
    assert (pair.first, pair.second, pair.mean) == ("hosts.0", "hosts.1", -0.5)
    assert decoupling.cell("hosts.0", "all off").effect.mean == 0.0


def test_where_attention_changes_nothing_there_is_nothing_to_divide() -> None:
    decoupling = decouple(sign_model(strength=0.0), signed_images())
    assert decoupling.total.accuracy.mean == 0.0
    assert [half.share for half in decoupling.halves] == [None, None]
    assert all(cell.effect.mean == 0.0 and cell.loss_effect.mean == 0.0 for cell in decoupling.cells)
    assert all(cell.differs_in == () for cell in decoupling.cells)
    assert decoupling.total.sure == frozenset()


def test_one_part_has_the_whole_and_no_cell_is_there_twice() -> None:
    decoupling = decouple(sign_model(attention="cbam-channel"), signed_images())
    (half,) = decoupling.halves
    assert half.share == 1.0
    named = [(cell.where, cell.change) for cell in decoupling.cells]
    assert named == [
        ("everywhere", "channel off"),
        ("everywhere", "gates at their mean"),
        ("everywhere", "gates shuffled"),
        ("hosts.0", "channel off"),
    ]


# A real network


def whole_evaluation(model: nn.Module, view: View, changes: Mapping[str, Any]) -> Evaluation:
    assert view.images is not None
    with computing(model, changes):
        return evaluate(model, view.images, EvaluationContext.of(model))


def without(off: tuple[str, ...], attention: Attention, x: Tensor) -> Gates:
    return attention.gates_without(x, off)


def test_every_cell_equals_a_whole_evaluation_of_the_changed_model(digits: View, found: Decoupling) -> None:
    model = real_model()
    plain = whole_evaluation(model, digits, {})
    assert found.intact.top1 == plain.score
    assert found.intact.loss == pytest.approx(plain.loss, abs=1e-5)
    assert found.intact.ece == pytest.approx(calibration_error(plain.rows), abs=1e-5)
    offs = {"channel off": ("channel",), "spatial off": ("spatial",), "all off": ("channel", "spatial")}
    orders = ["order spatial-channel", "order parallel"]
    sites = list(grafts(model))
    assert {(cell.where, cell.change) for cell in found.cells} == {
        *((where, off) for where in ("everywhere", *sites) for off in offs),
        *(("everywhere", change) for change in (*orders, "gates at their mean", "gates shuffled")),
    }
    for cell in found.cells:
        paths = sites if cell.where == "everywhere" else [cell.where]
        if cell.change in offs:
            changes: dict[str, Any] = {path: partial(without, offs[cell.change]) for path in paths}
        elif cell.change in orders:
            order = cell.change.removeprefix("order ")
            changes = {path: lambda a, x, order=order: a.rearranged()[order](x) for path in paths}
        else:
            continue
        whole = whole_evaluation(model, digits, changes)
        assert cell.top1 == whole.score
        assert cell.loss == pytest.approx(whole.loss, abs=1e-5)
        assert cell.ece == pytest.approx(calibration_error(whole.rows), abs=1e-5)
        assert cell.effect.mean == pytest.approx(whole.score - plain.score)
        assert cell.loss_effect.mean == pytest.approx(whole.loss - plain.loss, abs=1e-5)
        assert cell.brier == pytest.approx(float(brier(whole.rows).mean()), abs=1e-5)
        assert cell.brier_effect.mean == pytest.approx(cell.brier - found.intact.brier, abs=1e-6)


def test_mean_gates_are_the_means_over_all_images(digits: View, found: Decoupling) -> None:
    model = real_model()
    seen: dict[str, list[Gates]] = {}
    with ag_watching(model, seen):
        whole_evaluation(model, digits, {})
    means = {
        path: Gates(**{part: torch.cat([getattr(g, part) for g in gates]).mean(0, keepdim=True)
                       for part in ("channel", "spatial")})
        for path, gates in seen.items()
    }  # fmt: skip
    whole = whole_evaluation(model, digits, {path: lambda a, x, g=given: g for path, given in means.items()})
    cell = found.cell("everywhere", "gates at their mean")
    assert (cell.top1, cell.loss) == (whole.score, pytest.approx(whole.loss, abs=1e-5))


def ag_watching(model: nn.Module, seen: dict[str, list[Gates]]):
    from attngraft.surgery import watching

    return watching(model, lambda path, x, gates: seen.setdefault(path, []).append(gates))


def test_values_add_up_to_the_total(digits: View, found: Decoupling) -> None:
    halves, total = found.halves, found.total
    assert sum(half.accuracy.mean for half in halves) == pytest.approx(total.accuracy.mean, abs=1e-12)
    assert sum(half.loss.mean for half in halves) == pytest.approx(total.loss.mean, abs=1e-9)
    assert total.accuracy.mean == pytest.approx(-found.cell("everywhere", "all off").effect.mean)
    assert total.loss.mean == pytest.approx(found.cell("everywhere", "all off").loss_effect.mean)
    subset = digits.some(30)
    plain = whole_evaluation(real_model(), subset, {})
    off = dict.fromkeys(grafts(real_model()), partial(without, ("channel", "spatial")))
    bare = whole_evaluation(real_model(), subset, off)
    assert found.subset == 30
    assert sum(site.accuracy.mean for site in found.sites) == pytest.approx(plain.score - bare.score)
    assert sum(site.loss.mean for site in found.sites) == pytest.approx(bare.loss - plain.loss, abs=1e-5)


def test_the_sites_are_those_of_the_model_and_pairs_are_complete(found: Decoupling) -> None:
    paths = list(grafts(real_model()))
    assert [site.path for site in found.sites] == paths
    assert [(pair.first, pair.second) for pair in found.interactions] == [
        (paths[0], paths[1]),
        (paths[0], paths[2]),
        (paths[1], paths[2]),
    ]


def test_json_is_finite_and_the_same_for_the_same_seed(digits: View, found: Decoupling) -> None:
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(written) == {
        *("images", "intact", "cells", "total", "halves", "sites", "permutations", "subset", "interactions"),
        "speed_up",
    }
    again = decouple(real_model(), digits, subset=30).to_json()
    assert {key: again[key] for key in again if key not in NOT_MEASURED} == {
        key: written[key] for key in written if key not in NOT_MEASURED
    }
    speed = written["speed_up"]
    assert speed["ratio"] == pytest.approx(speed["naive_s"] / speed["shared_s"])


def test_the_batch_size_does_not_matter_but_for_shuffles(digits: View) -> None:
    whole, small = (decouple(real_model(), digits.some(16), subset=8, batch_size=size) for size in (16, 5))
    for cell, other in zip(whole.cells, small.cells, strict=True):
        if cell.change != "gates shuffled":
            assert (cell.top1, cell.loss) == (other.top1, pytest.approx(other.loss, abs=1e-5))


@pytest.mark.parametrize(("attention", "combinations"), [("triplet", 7), ("coord", 3), ("se", 1), ("bam", 3)])
def test_other_attentions_come_apart_too(digits: View, attention: str, combinations: int) -> None:
    decoupling = decouple(real_model(attention), digits.some(20), permutations=2, subset=10)
    everywhere = [cell for cell in decoupling.cells if cell.where == "everywhere"]
    assert len(everywhere) == combinations + 2
    assert sum(half.accuracy.mean for half in decoupling.halves) == pytest.approx(decoupling.total.accuracy.mean)
    json.dumps(decoupling.to_json(), allow_nan=False)


def test_sites_with_different_parts_are_switched_as_far_as_they_have_them(digits: View) -> None:
    model = real_model()
    paths = list(grafts(model))
    model.get_submodule(paths[1]).graft = real_model("cbam-channel").get_submodule(paths[1]).graft
    decoupling = decouple(model, digits.some(20), subset=10)
    assert [cell.change for cell in decoupling.cells if cell.where == paths[1]] == ["channel off"]
    assert len([cell for cell in decoupling.cells if cell.where == paths[0]]) == 3
    assert sum(half.loss.mean for half in decoupling.halves) == pytest.approx(decoupling.total.loss.mean)


def test_one_image_is_enough_but_has_no_other_to_take_gates_from(digits: View) -> None:
    decoupling = decouple(real_model(), digits.some(1))
    assert "gates shuffled" not in {cell.change for cell in decoupling.cells}
    json.dumps(decoupling.to_json(), allow_nan=False)


# Nothing else changes, and what cannot be is said


def state(model: nn.Module) -> tuple[Any, ...]:
    modules = [(name, m.training, set(m.__dict__), len(m._forward_hooks)) for name, m in model.named_modules()]
    return modules, [p.requires_grad for p in model.parameters()], torch.get_rng_state().tolist()


class Impatient(Silent):
    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("batches", [None, 1, 3, 5])
def test_the_model_is_as_before_also_when_interrupted(digits: View, batches: int | None) -> None:
    model = real_model().train()
    model.get_submodule("block1").eval()
    before, weights = state(model), copy.deepcopy(model.state_dict())
    if batches is None:
        decouple(model, digits.some(8), subset=4)
    else:
        with pytest.raises(KeyboardInterrupt):
            decouple(model, digits.some(8), subset=4, batch_size=4, progress=Impatient(batches))
    assert state(model) == before
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())


def test_what_cannot_be_taken_apart_is_said_in_one_sentence(digits: View) -> None:
    plain = ag.create_backbone("small-cnn", num_classes=10)
    with pytest.raises(GraftError, match="no grafts"):
        decouple(plain, digits)
    with pytest.raises(DataError, match="needs labels"):
        decouple(real_model(), torch.zeros(4, 3, 32, 32))
    with pytest.raises(DataError, match="labels go up to 9"):
        decouple(ag.graft(ag.create_backbone("small-cnn", num_classes=5), "se"), digits)
    pair = real_model()
    pair.forward = lambda x: (type(pair).forward(pair, x), None)
    with pytest.raises(DataError, match="a tuple"):
        decouple(pair, digits)
    for options, word in (({"permutations": 3}, "even"), ({"subset": 0}, "subset"), ({"batch_size": 0}, "batch_size")):
        with pytest.raises(ConfigError, match=word):
            decouple(real_model(), digits, **options)
    broken = real_model()
    next(broken.parameters()).data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="not finite"):
        decouple(broken, digits.some(4))
    lost = real_model()
    lost.get_submodule(next(iter(grafts(lost))))._forward_hooks.clear()
    with pytest.raises(GraftError, match="not live"):
        decouple(lost, digits)


# The pieces


@given(st.integers(2, 40), st.integers(0, 5))
def test_nothing_stays_in_its_place(count: int, seed: int) -> None:
    order = _derangement(count, np.random.default_rng(seed), torch.zeros(1)).numpy()
    assert sorted(order) == list(range(count))
    assert (order != np.arange(count)).all()


@given(st.integers(1, 300), st.integers(1, 70))
def test_no_image_is_alone_in_a_batch(images: int, wanted: int) -> None:
    size = _batch_size(images, wanted)
    assert size <= max(wanted, 2) or images % wanted == 1 or wanted == 1
    assert images == 1 or images % size != 1


def scores(seed: int, images: int = 80) -> Scores:
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, images).astype(np.float32)
    loss, brier_score = (rng.exponential(size=images).astype(np.float32) for _ in range(2))
    return Scores(rng.random(images) < confidence**2, loss, confidence, np.minimum(brier_score, 2))


def shifted(found: Scores, by: float, noise: float = 0.1) -> Scores:
    """The same with another Brier score and loss."""
    rng = np.random.default_rng(1)
    moved = (by + noise * rng.standard_normal(len(found.loss))).astype(np.float32)
    return replace(found, loss=found.loss + moved, brier=found.brier + moved)


def test_calibration_is_tested_image_by_image_and_corrected_over_cells_and_measures() -> None:
    intact = scores(0)
    cells = {("here", "worse"): shifted(intact, 0.1), **{("here", f"same {i}"): shifted(intact, 0.0) for i in range(9)}}
    worse, *same = cell_effects(intact, cells)
    assert worse.differs_in == ("loss", "brier")
    assert worse.brier_effect.mean == pytest.approx(0.1, abs=0.03)
    assert all(cell.differs_in == () for cell in same)
    alone = cell_effects(intact, {("here", "worse"): shifted(intact, 0.1)})[0]
    assert worse.p_adjusted["brier"] > alone.p_adjusted["brier"]
    assert "ece_change" not in to_dict(worse), "the calibration error has no interval"


def test_changes_alike_within_groups_count_once_a_group() -> None:
    intact, groups = scores(0), np.repeat(np.arange(8), 10)
    change = np.repeat(np.random.default_rng(2).normal(0.15, 0.3, 8), 10).astype(np.float32)
    changed = replace(intact, loss=intact.loss + change, brier=intact.brier + change)
    assert cell_effects(intact, {("here", "changed"): changed})[0].differs_in == ("loss", "brier")
    assert cell_effects(intact, {("here", "changed"): changed}, groups)[0].differs_in == ()


def test_shares_are_none_unless_the_total_is_away_from_zero() -> None:
    base = scores(2)
    same = dict.fromkeys(range(4), base)
    assert all(half.share is None for half in halves_of(("channel", "spatial"), same))
    worse = replace(base, correct=np.zeros_like(base.correct), loss=base.loss + 1)
    halves = halves_of(("channel", "spatial"), {0: worse, 1: base, 2: worse, 3: base})
    assert [half.share for half in halves] == [1.0, 0.0]


def calibration_coverage(images: int, experiments: int) -> float:
    """How often the interval of the change of the Brier score holds the truth: two models with other confidences."""
    rng = np.random.default_rng(images)

    def answers(count: int) -> tuple[Scores, Scores]:
        logit, right = rng.normal(1.5, 1.5, count), rng.random(count)
        known, sharper = (1 / (1 + np.exp(-factor * logit)) for factor in (1.0, 1.6))
        correct = right < known
        made = [(np.where(correct, 1 - p, p) ** 2 * 2).astype(np.float32) for p in (known, sharper)]
        one, other = (Scores(correct, brier_score, brier_score, brier_score) for brier_score in made)
        return one, other

    one, other = answers(400_000)
    truth = other.mean_brier - one.mean_brier
    found = [cell_effects(intact, {("here", "sharper"): changed})[0] for intact, changed in
             (answers(images) for _ in range(experiments))]  # fmt: skip
    return float(np.mean([cell.brier_effect.low <= truth <= cell.brier_effect.high for cell in found]))


def test_the_change_of_the_brier_score_is_covered() -> None:
    assert calibration_coverage(200, 200) >= 0.93 - 0.04


@pytest.mark.slow
@pytest.mark.parametrize("images", [100, 400, 1600])
def test_the_change_of_the_brier_score_is_covered_in_the_grid(images: int) -> None:
    assert calibration_coverage(images, 2000) >= 0.93
