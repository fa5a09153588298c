"""The sentences say what the numbers allow, and no more."""

from __future__ import annotations

from dataclasses import replace

import fake_explanation

from attngraft.config import from_dict
from attngraft.costs import Latency
from attngraft.explanation.explain import sentences
from attngraft.explanation.explanation_record import (
    Decoupling,
    ExplanationRecord,
    Faithfulness,
    FoldingRecord,
    Half,
    Latencies,
    MapPointing,
    Pointing,
    Saliency,
    Worth,
)
from attngraft.statistics.interval import Interval

effect = Interval
FULL = from_dict(ExplanationRecord, {**fake_explanation.explanation(None), "looks": None})


def only(**changes: object) -> ExplanationRecord:
    """A record of which only the gates are known."""
    site = FULL.gates.sites[0]
    parts = {part: replace(site.parts[part], swing=swing) for part, swing in (("channel", 0.05), ("spatial", 0.0))}
    gates = replace(FULL.gates, sites=(replace(site, parts=parts),))
    return replace(FULL, **{"gates": gates, "decoupling": None, "folding": None, "looks": None, **changes})


def decoupling(total: Interval, loss: Interval, share: float | None = None, sure: tuple[str, ...] = ()) -> Decoupling:
    other = None if share is None else 1 - share
    halves = (Half("channel", total, loss, share, 0.6, 0.97), Half("spatial", total, loss, other, 0.03, 0.4))
    p_adjusted = {name: 0.01 if name in sure else 0.2 for name in ("accuracy", "loss", "brier")}
    worth = Worth(total, loss, effect(0.01, 0.005, 0.015), p_adjusted)
    return replace(FULL.decoupling, images=2000, total=worth, halves=halves)


def test_a_plain_model_is_explained_as_plain() -> None:
    found = sentences(only(attention=None, gates=None))
    assert len(found) == 1
    assert "no grafts" in found[0]


def test_without_labels_nothing_is_said_about_accuracy() -> None:
    found = sentences(only())
    assert found[0] == (
        "At 1 site the channel gates swing by 0.05 between images, the spatial gates never change "
        "(standard deviation, n = 400 images)."
    )
    assert "no labels" in found[1]


def test_attention_that_carries_the_model() -> None:
    sure = decoupling(effect(0.031, 0.012, 0.05), effect(0.1, 0.05, 0.2), 0.8, ("accuracy",))
    found = sentences(only(decoupling=sure))
    assert "rests on its attention" in found[0]
    assert "-3.1 points of top-1 (95 % interval -5.0 to -1.2; n = 2,000 images)" in found[0]
    assert found[1] == "Channel attention carries 80 % of that (95 % interval 60 to 97), spatial 20 %."


def test_a_half_that_carries_more_than_all_is_explained() -> None:
    sure = decoupling(effect(0.03, 0.01, 0.05), effect(0.1, 0.05, 0.2), 1.08, ("accuracy",))
    found = sentences(only(decoupling=sure))
    assert "carries 108 % of that" in found[1]
    assert "more than all of it, as the rest takes away" in found[1]


def test_one_image_tells_nothing_of_differences() -> None:
    gates = replace(FULL.gates, images=1)
    assert sentences(only(gates=gates))[0].startswith("One image does not tell")


def test_attention_that_harms() -> None:
    sure = decoupling(effect(-0.02, -0.03, -0.01), effect(-0.1, -0.2, -0.05), 0.5, ("accuracy",))
    found = sentences(only(decoupling=sure))
    assert "better without its attention" in found[0]
    assert "+2.0 points" in found[0]


def test_where_accuracy_cannot_tell_nothing_is_divided() -> None:
    total = effect(0.001, -0.004, 0.006)
    found = sentences(only(decoupling=decoupling(total, effect(0.0, -0.01, 0.01))))
    assert "no evidence that its predictions rest on its attention" in found[0]
    assert not any("carries" in sentence for sentence in found)
    found = sentences(only(decoupling=decoupling(total, effect(0.03, 0.01, 0.05), sure=("loss", "brier"))))
    assert "attention changes the loss -0.030 nats and the Brier score -0.010 (lower is better)" in found[0]
    found = sentences(only(decoupling=decoupling(effect(0.003, 0.0001, 0.006), effect(0.0, -0.01, 0.01), 0.5)))
    assert "does not count after correction for three measures" in found[0]
    assert not any("carries" in sentence for sentence in found)


def test_groups_are_counted_where_they_are_the_unit() -> None:
    sure = replace(decoupling(effect(0.03, 0.01, 0.05), effect(0.1, 0.05, 0.2), None, ("accuracy",)), groups=40)
    assert "n = 2,000 images in 40 groups" in sentences(only(decoupling=sure))[0]


def folding(actions: list[str], gone: int) -> FoldingRecord:
    sites = tuple(replace(FULL.folding.sites[0], action=action) for action in actions)
    times = Latencies(*(Latency(median, median, median, 20, 1) for median in (10.0, 9.1)))
    found = replace(FULL.folding, sites=sites, sites_gone=gone, sites_in_all=16, tolerance=0.005, images=400)
    return replace(found, effect=effect(0.0, -0.002, 0.002), latency_ms=times)


def test_folding_says_what_goes_and_what_it_costs() -> None:
    found = sentences(only(folding=folding(["removed", "left as a scale", "kept"], 11)))[-1]
    assert found == (
        "11 of 16 sites fold away and 1 becomes cheaper, as constants do as well as their gates: latency -9 %, accuracy "
        "0.0 points (95 % interval -0.2 to +0.2; n = 400 images; 0.5 were allowed to be lost on these)."
    )
    rare = replace(folding(["removed"], 16), unlikely_loss=0.00746, groups=40)
    assert (
        "n = 400 images in 40 groups; a loss above 0.8 points is unlikely on other images like these; 0.5 were allowed"
        in sentences(only(folding=rare))[-1]
    )
    found = sentences(only(folding=folding(["reduced to cbam-spatial", "kept"], 0)))[-1]
    assert found.startswith("Of 16 sites 1 becomes cheaper, as constants")
    found = sentences(only(folding=folding(["kept"], 0)))[-1]
    assert found.startswith("Nothing folds away within 0.5 points")


def test_pointing_is_told_against_the_centre() -> None:
    def told(centre: Interval) -> str:
        entry = MapPointing("spatial gate", effect(0.41, 0.36, 0.46), effect(0.3, 0.2, 0.4), centre)
        faithful = Faithfulness(200, (0.0, 1.0), 0.1, (), (), "So it is.")
        found = sentences(only(looks=Saliency((), faithful, Pointing(200, 0, (entry,)))))
        assert found[-1] == "So it is."
        return found[-2]

    assert "41 % of 200 images (36 to 46), more often than" in told(effect(0.1, 0.05, 0.15))
    assert "less often than" in told(effect(-0.1, -0.15, -0.05))
    assert "no more and no less" in told(effect(0.0, -0.05, 0.05))
