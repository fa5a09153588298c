"""The sentences say what the numbers allow, and no more."""

from __future__ import annotations

from typing import Any

from attngraft.explanation.summary_sentences import sentences


def effect(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


NOTHING: dict[str, Any] = {
    "attention": "cbam",
    "gates": {
        "images": 400,
        "sites": [{"path": "a", "parts": {"channel": {"swing": 0.05}, "spatial": {"swing": 0.0}}}],
    },
    "decoupling": None,
    "folding": None,
    "looks": {"pointing": None, "faithfulness": None},
}


def decoupling(total: dict[str, float], loss: dict[str, float], share: float | None = None) -> dict[str, Any]:
    halves = [
        {"part": "channel", "share": share, "share_low": 0.6, "share_high": 0.97},
        {"part": "spatial", "share": None if share is None else 1 - share, "share_low": 0.03, "share_high": 0.4},
    ]
    return {"images": 2000, "total": {"accuracy": total, "loss": loss}, "halves": halves}


def test_a_plain_model_is_explained_as_plain() -> None:
    found = sentences(NOTHING | {"attention": None, "gates": None})
    assert len(found) == 1
    assert "no grafts" in found[0]


def test_without_labels_nothing_is_said_about_accuracy() -> None:
    found = sentences(NOTHING)
    assert found[0] == (
        "At 1 site the channel gates swing by 0.05 between images, the spatial gates never change "
        "(standard deviation, n = 400 images)."
    )
    assert "no labels" in found[1]


def test_attention_that_carries_the_model() -> None:
    found = sentences(NOTHING | {"decoupling": decoupling(effect(0.031, 0.012, 0.05), effect(0.1, 0.05, 0.2), 0.8)})
    assert "rests on its attention" in found[0]
    assert "-3.1 points of top-1 (95 % interval -5.0 to -1.2; n = 2,000 images)" in found[0]
    assert found[1] == "Channel attention carries 80 % of that (95 % interval 60 to 97), spatial 20 %."


def test_a_half_that_carries_more_than_all_is_explained() -> None:
    found = sentences(NOTHING | {"decoupling": decoupling(effect(0.03, 0.01, 0.05), effect(0.1, 0.05, 0.2), 1.08)})
    assert "carries 108 % of that" in found[1]
    assert "more than all of it, as the rest takes away" in found[1]


def test_one_image_tells_nothing_of_differences() -> None:
    gates = {**NOTHING["gates"], "images": 1}
    assert sentences(NOTHING | {"gates": gates})[0].startswith("One image does not tell")


def test_attention_that_harms() -> None:
    found = sentences(NOTHING | {"decoupling": decoupling(effect(-0.02, -0.03, -0.01), effect(-0.1, -0.2, -0.05), 0.5)})
    assert "better without its attention" in found[0]
    assert "+2.0 points" in found[0]


def test_where_accuracy_cannot_tell_nothing_is_divided() -> None:
    total = effect(0.001, -0.004, 0.006)
    found = sentences(NOTHING | {"decoupling": decoupling(total, effect(0.0, -0.01, 0.01))})
    assert "no evidence that its answers rest on its attention" in found[0]
    assert not any("carries" in sentence for sentence in found)
    found = sentences(NOTHING | {"decoupling": decoupling(total, effect(0.03, 0.01, 0.05))})
    assert "surer of the right class (loss -0.030 nats)" in found[0]


def folding(actions: list[str], gone: int) -> dict[str, Any]:
    return {
        "sites": [{"action": action} for action in actions],
        "sites_gone": gone,
        "sites_in_all": 16,
        "tolerance": 0.005,
        "images": 400,
        "effect": effect(0.0, -0.002, 0.002),
        "latency_ms": {"before": {"median": 10.0}, "after": {"median": 9.1}},
    }


def test_folding_says_what_goes_and_what_it_costs() -> None:
    found = sentences(NOTHING | {"folding": folding(["removed", "left as a scale", "kept"], 11)})[-1]
    assert found == (
        "11 of 16 sites fold away and 1 becomes cheaper, as constants do as well as their gates: latency -9 %, accuracy "
        "0.0 points (95 % interval -0.2 to +0.2; n = 400 images; 0.5 were allowed to be lost on these)."
    )
    found = sentences(NOTHING | {"folding": folding(["reduced to cbam-spatial", "kept"], 0)})[-1]
    assert found.startswith("Of 16 sites 1 becomes cheaper, as constants")
    found = sentences(NOTHING | {"folding": folding(["kept"], 0)})[-1]
    assert found.startswith("Nothing folds away within 0.5 points")


def test_pointing_is_told_against_the_centre() -> None:
    def told(centre: dict[str, float]) -> str:
        entry = {"map": "spatial gate", "hits": effect(0.41, 0.36, 0.46), "hits_against_centre": centre}
        looks = {"pointing": {"n": 200, "maps": [entry]}, "faithfulness": {"sentence": "So it is."}}
        found = sentences(NOTHING | {"looks": looks})
        assert found[-1] == "So it is."
        return found[-2]

    assert "41 % of 200 images (36 to 46), more often than" in told(effect(0.1, 0.05, 0.15))
    assert "less often than" in told(effect(-0.1, -0.15, -0.05))
    assert "no more and no less" in told(effect(0.0, -0.05, 0.05))
