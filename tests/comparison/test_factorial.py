"""The 2 x 2 design of CBAM's halves: which variants make one, what its effects are, and where they are shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sealed import read_plain
from training_helpers import classes_evaluation

from attngraft.checksums import write_sealed_json
from attngraft.comparison import parse_variants
from attngraft.comparison.analysis_plan import AnalysisPlan
from attngraft.comparison.compare import compare
from attngraft.comparison.factorial import factorial, squares
from attngraft.errors import RunError
from attngraft.reporting import write_report
from attngraft.statistics.effects import crossed_effect
from attngraft.tasks import Classification
from attngraft.training import Evaluation

HALVES = ["cbam-channel", "cbam-spatial"]

PLAN = AnalysisPlan(Classification(("right", "wrong")).metrics["top1"])
PASSED = [{"variant": "cbam", "against": "none", "p_adjusted": 0.001}]


def evaluation(correct: list[int]) -> Evaluation:
    """Two classes; the label is always 0."""
    probabilities = np.array([[0.9, 0.1] if right else [0.2, 0.8] for right in correct], np.float32)
    return classes_evaluation(probabilities, np.zeros(len(correct)))


def names(attentions: list[str]) -> list[tuple[str, ...]]:
    return [tuple(v.name for v in square) for square in squares(parse_variants(attentions, []))]


ANSWERS = {
    "none": {0: evaluation([1, 0, 0, 0]), 1: evaluation([0, 0, 0, 1])},
    "cbam-channel": {0: evaluation([1, 1, 0, 0]), 1: evaluation([1, 1, 0, 1])},
    "cbam-spatial": {0: evaluation([1, 0, 0, 0]), 1: evaluation([0, 0, 1, 1])},
    "cbam": {0: evaluation([1, 1, 1, 1]), 1: evaluation([1, 1, 1, 0])},
}


def test_effects_are_those_of_hand_computation():
    found = factorial(parse_variants(["cbam", *HALVES], []), ANSWERS, PLAN, PASSED)
    assert found["cells"] == {"none": 0.25, "channel": 0.625, "spatial": 0.375, "both": 0.875}
    assert found["channel"]["mean"] == pytest.approx(((0.625 - 0.25) + (0.875 - 0.375)) / 2)
    assert found["spatial"]["mean"] == pytest.approx(((0.375 - 0.25) + (0.875 - 0.625)) / 2)
    assert found["interaction"]["mean"] == pytest.approx((0.875 - 0.375) - (0.625 - 0.25))
    assert found["variants"] == {"none": "none", "channel": "cbam-channel", "spatial": "cbam-spatial", "both": "cbam"}
    assert found["others"] == []
    assert (found["channel"]["seeds"], found["channel"]["images"]) == (2, 4)
    json.dumps(found, allow_nan=False)


def test_intervals_are_paired_by_seed_and_image():
    found = factorial(parse_variants(["cbam", *HALVES], []), ANSWERS, PLAN, PASSED)
    by_hand = np.array([[0, 1, 0.5, 0.5], [1, 1, 0, -0.5]])
    effect = crossed_effect(by_hand)
    assert (found["channel"]["low"], found["channel"]["high"]) == pytest.approx((effect.low, effect.high))


def test_an_interaction_can_reach_two():
    swapped = {"none": {0: evaluation([1] * 6)}, "cbam": {0: evaluation([1] * 6)}}
    swapped |= {"cbam-channel": {0: evaluation([0] * 6)}, "cbam-spatial": {0: evaluation([0] * 5 + [1])}}
    found = factorial(parse_variants(["cbam", *HALVES], []), swapped, PLAN, PASSED)
    assert found["interaction"]["mean"] == pytest.approx(11 / 6)
    assert found["interaction"]["high"] == 2.0


@pytest.mark.parametrize(
    "attentions",
    [
        ["cbam"],
        HALVES,
        ["cbam", "cbam-channel", "se"],
        ["cbam@stage", *HALVES],
        ["cbam:reduction=8", *HALVES],
        ["cbam", "cbam-channel:combine=product", "cbam-spatial"],
        ["cbam", "cbam-channel", "cbam-spatial:init=paper"],
        ["cbam:kernel_size=3", *HALVES],
    ],
)
def test_what_differs_in_more_than_its_halves_is_no_square(attentions):
    assert factorial(parse_variants(attentions, []), {}, PLAN, PASSED) is None


def test_options_are_compared_by_what_they_mean():
    written = ["cbam:reduction=16,poolings=max+avg", "cbam-channel:poolings=avg+max", "cbam-spatial:kernel_size=7"]
    assert len(names(written)) == 1
    with_place = ["cbam@stage:reduction=8,init=paper", "cbam-spatial@stage:init=paper"]
    assert len(names([*with_place, "cbam-channel@stage:init=paper,reduction=8"])) == 1
    assert names([*with_place, "cbam-channel@stage:reduction=8"]) == []


def test_other_orders_and_places_have_squares_of_their_own():
    stages = ["cbam@stage", "cbam-channel@stage", "cbam-spatial@stage"]
    found = names(["cbam", "cbam:order=parallel", *HALVES, *stages])
    assert found == [
        ("none", *HALVES, "cbam"),
        ("none", *HALVES, "cbam:order=parallel"),
        ("none", *stages[1:], "cbam@stage"),
    ]
    parallel = ANSWERS | {"cbam:order=parallel": {1 - seed: run for seed, run in ANSWERS["cbam"].items()}}
    both = factorial(parse_variants(["cbam", "cbam:order=parallel", *HALVES], []), parallel, PLAN, PASSED)
    assert [other["variants"]["both"] for other in both["others"]] == ["cbam:order=parallel"]
    assert both["others"][0]["cells"] == both["cells"]


def test_the_second_self_of_the_baseline_is_not_taken_for_it():
    (square,) = squares(parse_variants(["none", "cbam", *HALVES], []))
    assert square.none.name == "none"


@pytest.fixture(scope="module")
def compared(tmp_path_factory, digits, settings):
    """All four cells trained, and once more in parallel."""
    folder = tmp_path_factory.mktemp("factorial")
    return compare(digits, attentions=["cbam", "cbam:order=parallel", *HALVES], seeds=1, run_dir=folder, **settings)


def test_a_comparison_of_all_four_has_it_in_the_document_and_on_the_page(compared):
    document = read_plain(compared.run_dir / "comparison.json")
    found, top1 = document["factorial"], {row["name"]: row["top1_mean"] for row in document["variants"]}
    for square in (found, *found["others"]):
        assert square["cells"] == pytest.approx({half: top1[name] for half, name in square["variants"].items()})
    page = write_report(compared.run_dir).read_text(encoding="utf-8")
    assert "with spatial gates" in page
    assert page.count("interaction of both") == 2
    assert "cbam:order=parallel" in page


def test_pages_of_comparisons_without_it_still_render(compared, finished, tmp_path):
    assert "factorial" not in finished.document
    page = write_report(finished.run_dir).read_text(encoding="utf-8")
    assert "with spatial gates" not in page
    document = dict(compared.document)
    del document["factorial"]
    write_sealed_json(tmp_path / "comparison.json", document)
    assert "with spatial gates" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_damaged_square_is_named(compared, tmp_path):
    document = read_plain(compared.run_dir / "comparison.json")
    del document["factorial"]["others"][0]["cells"]["both"]
    write_sealed_json(tmp_path / "comparison.json", document)
    with pytest.raises(RunError, match=r"factorial.others\[0\].cells is incomplete: it has no 'both'"):
        write_report(tmp_path)
