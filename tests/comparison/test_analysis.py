"""Effects of a whole comparison from predictions that are made by hand: families, seeds that fail, groups, margins, looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import read_plain
from training_helpers import classes_evaluation

from attngraft.comparison import compare, parse_variants
from attngraft.comparison.analysis_plan import AnalysisPlan
from attngraft.comparison.contrasts import effects
from attngraft.comparison.factorial import factorial
from attngraft.comparison.run_all import Results, run_all
from attngraft.data import Dataset
from attngraft.errors import ConfigError, NotFiniteError, RunError
from attngraft.reporting import write_report
from attngraft.tasks import Classification, find_metric
from attngraft.training import World

TASK = Classification(("a", "b", "c"))
TOP1 = TASK.metrics["top1"]


def simulated(
    rng: np.random.Generator, names: list[str], seeds: int, images: int, gains: dict[str, float] | None = None
) -> dict[str, dict[int, Any]]:
    """Evaluations whose accuracy is 0.7 plus the gain of the variant, alike between seeds and variants."""
    labels = rng.integers(0, 3, images)
    ease = rng.standard_normal(images)
    found: dict[str, dict[int, Any]] = {}
    for name in names:
        found[name] = {}
        for seed in range(seeds):
            score = ease + 0.7 * rng.standard_normal(images) + 0.1 * rng.standard_normal() + (gains or {}).get(name, 0)
            right = score > -0.64
            answer = np.where(right, labels, (labels + 1 + rng.integers(0, 2, images)) % 3)
            found[name][seed] = classes_evaluation(np.eye(3, dtype=np.float32)[answer] * 0.8 + 0.1, labels)
    return found


def alarms(entries: list[dict[str, Any]], square: dict[str, Any] | None) -> int:
    """How many things a report calls beyond chance."""
    found = sum(entry["p_adjusted"] <= 0.05 for entry in entries)
    found += sum(row["p_adjusted"] <= 0.05 for entry in entries for row in entry["per_class"])
    if square:
        found += sum(square[name]["p_adjusted"] <= 0.05 for name in ("channel", "spatial", "interaction"))
    return found


def rate_of_any_alarm(experiments: int, seeds: int, images: int) -> float:
    """Share of reports with a false alarm anywhere: three attentions, a control, classes and the 2 x 2 design."""
    variants = parse_variants(["cbam", "cbam-channel", "cbam-spatial"], ["static"])
    plan, rng, hits = AnalysisPlan(TOP1), np.random.default_rng(seeds), 0
    for _ in range(experiments):
        evaluations = simulated(rng, [v.name for v in variants], seeds, images)
        entries = effects(variants, evaluations, TASK, plan, {})
        hits += alarms(entries, factorial(variants, evaluations, plan, entries)) > 0
    return hits / experiments


def test_a_whole_report_raises_few_false_alarms() -> None:
    assert rate_of_any_alarm(60, 3, 60) <= 0.05 + 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "images"), [(3, 100), (5, 200), (10, 100)])
def test_a_whole_report_raises_few_false_alarms_in_many_experiments(seeds: int, images: int) -> None:
    assert rate_of_any_alarm(600, seeds, images) <= 0.07


def test_controls_count_only_where_an_attention_has_passed() -> None:
    rng = np.random.default_rng(0)
    variants = parse_variants(["se"], ["static"])
    names = [v.name for v in variants]
    without = effects(variants, simulated(rng, names, 5, 400, {"static": 0.9}), TASK, AnalysisPlan(TOP1), {})
    by_pair = {(e["variant"], e["against"]): e for e in without}
    control = by_pair["static", "none"]
    assert control["p_value"] < 0.01 < 0.05 < control["p_adjusted"]
    assert control["verdict"] == "no evidence"
    assert "since no attention has passed" in control["sentence"]
    opened = effects(variants, simulated(rng, names, 5, 400, {"se": 0.9, "static": 0.9}), TASK, AnalysisPlan(TOP1), {})
    assert {(e["variant"], e["against"]): e["verdict"] for e in opened}["static", "none"] == "helps"


def test_a_seed_that_failed_is_left_out_for_its_variant_alone_and_nothing_is_claimed_of_it() -> None:
    rng = np.random.default_rng(1)
    variants = parse_variants(["se", "eca"], [])
    evaluations = simulated(rng, [v.name for v in variants], 4, 300, {"se": 1.5, "eca": 1.5})
    del evaluations["se"][2]
    found = {e["variant"]: e for e in effects(variants, evaluations, TASK, AnalysisPlan(TOP1), {}, {"se": [2]})}
    assert found["se"]["verdict"] == "diverged"
    assert found["se"]["paired_seeds"] == [0, 1, 3]
    assert "diverged in 1 of 4 runs (seed 2)" in found["se"]["sentence"]
    assert (found["eca"]["verdict"], found["eca"]["paired_seeds"]) == ("helps", [0, 1, 2, 3])


def test_a_run_that_failed_does_not_lift_the_level_of_a_planned_look() -> None:
    rng = np.random.default_rng(8)
    variants = parse_variants(["se", "eca"], [])
    evaluations = simulated(rng, [v.name for v in variants], 3, 200)
    plan = AnalysisPlan.of(TOP1, looks=[3, 5]).at(3)
    whole = effects(variants, evaluations, TASK, plan, {})
    del evaluations["se"][1]
    _, eca = effects(variants, evaluations, TASK, plan, {}, {"se": [1]})
    assert (eca["confidence"], eca["p_adjusted"]) == (whole[1]["confidence"], whole[1]["p_adjusted"])
    del evaluations["none"][2]
    _, eca = effects(variants, evaluations, TASK, plan, {}, {"none": [2]})
    assert eca["seeds"] == 2
    assert eca["confidence"] == whole[1]["confidence"] > 0.99


def test_groups_are_counted_and_not_images() -> None:
    rng = np.random.default_rng(2)
    evaluations = simulated(rng, ["none", "se"], 3, 120)
    variants = parse_variants(["se"], [])
    plan = AnalysisPlan(TOP1, groups=np.repeat(np.arange(12), 10))
    (entry,) = effects(variants, evaluations, TASK, plan, {})
    (alone,) = effects(variants, evaluations, TASK, AnalysisPlan(TOP1), {})
    assert entry["images"] == 12
    assert entry["mean"] == pytest.approx(alone["mean"])
    assert "x 12 groups" in entry["sentence"]
    assert sum(row["images"] for row in entry["per_class"]) == 120


@pytest.mark.parametrize("name", ["balanced-accuracy", "macro-f1", "auroc", "quadratic-kappa"])
def test_groups_of_one_image_are_images_for_every_metric(name: str) -> None:
    rng = np.random.default_rng(3)
    rows = simulated(rng, ["none"], 1, 40)["none"][0].rows
    metric = find_metric(TASK, name)
    grouped = metric.scores_of_groups(rows, np.arange(40))
    assert grouped == pytest.approx(metric.scores(rows))
    pairs = metric.scores_of_groups(rows, np.repeat(np.arange(20), 2))
    assert len(pairs) == 20
    assert pairs.mean() == pytest.approx(metric.value(rows))


def test_a_class_of_one_group_stays_in_the_set_of_classes() -> None:
    rng = np.random.default_rng(4)
    rows = dict(simulated(rng, ["none"], 1, 40)["none"][0].rows)
    rows["labels"] = np.where(np.arange(40) < 3, 2, rows["labels"] % 2)
    metric = find_metric(TASK, "balanced-accuracy")
    grouped = metric.scores_of_groups(rows, np.where(np.arange(40) < 3, 99, np.arange(40)))
    assert grouped.mean() == pytest.approx(metric.value(rows))
    assert np.ptp(grouped) < 40  # leaving the class out with its group moves the mean over classes by nothing


@pytest.mark.parametrize(
    ("margin", "words"), [(0.0, "expected more than 0"), (200.0, "below 100"), (-1.0, "more than 0")]
)
def test_margins_that_mean_nothing_are_refused(margin: float, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AnalysisPlan.of(TOP1, margin=margin)


@pytest.mark.parametrize("looks", ["3,2", "1,5", "five", "", [5, 5], []])
def test_looks_that_do_not_grow_are_refused(looks: Any) -> None:
    with pytest.raises(ConfigError, match=r"from 2 on, for example 5,8,12"):
        AnalysisPlan.of(TOP1, looks=looks)


def test_a_margin_has_a_word_of_its_own() -> None:
    rng = np.random.default_rng(5)
    evaluations = simulated(rng, ["none", "se"], 8, 900)
    plan = AnalysisPlan.of(TOP1, margin=8.0)
    (entry,) = effects(parse_variants(["se"], []), evaluations, TASK, plan, {})
    assert entry["margin"]["kind"] == "as good as"
    assert entry["margin"]["confidence"] == pytest.approx(0.9)
    assert "as good as without it, within 8 points (90 % interval" in entry["sentence"]
    (close,) = effects(parse_variants(["se"], []), evaluations, TASK, AnalysisPlan.of(TOP1, margin=0.5), {})
    assert close["margin"]["kind"] == "undecided"
    assert "a margin of 0.5 points is not decided" in close["sentence"]


def test_a_graft_that_hardly_moved_is_said() -> None:
    rng = np.random.default_rng(6)
    evaluations = simulated(rng, ["none"], 3, 400)
    evaluations["se"] = evaluations["none"]
    (entry,) = effects(parse_variants(["se"], []), evaluations, TASK, AnalysisPlan(TOP1), {})
    assert entry["answers_differ"] == 0
    assert "the graft hardly moved" in entry["sentence"]
    evaluations["longer"] = evaluations["none"]  # has no graft that could move
    longer = effects(parse_variants(["se"], ["longer"]), evaluations, TASK, AnalysisPlan(TOP1), {})[1]
    assert (longer["variant"], longer["answers_differ"]) == ("longer", 0)
    assert "graft" not in longer["sentence"]


def test_a_comparison_with_looks_stops_when_it_is_futile_and_says_why(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any]
) -> None:
    frozen = settings | {"lr_scale": 1e-12, "controls": ["static"]}  # nothing is learned, so that nothing can come
    first = compare(digits, attentions=["se"], looks=[2, 3], margin=20.0, run_dir=tmp_path, **frozen)
    document = read_plain(tmp_path / "comparison.json")
    assert document["seeds"] == [0, 1]
    assert document["analysis"] == {"margin": 20.0, "looks": [2, 3]}
    assert document["look"]["seeds"] == 2
    assert document["stopped"] in ("settled", "futile")
    assert document["looks"] == [[0, 1]]
    assert "looked at" not in str(first)
    assert "planned at 2, 3 seeds" in write_report(tmp_path).read_text(encoding="utf-8")
    again = compare(digits, attentions=["se"], looks=[2, 3], margin=20.0, run_dir=tmp_path, **frozen)
    assert again.document["seeds"] == [0, 1]
    assert "Stopped after 2 of 3 planned seeds" in str(first)
    with pytest.raises(RunError, match="has been looked at with se"):
        compare(digits, attentions=["se", "eca"], looks=[2, 3], margin=20.0, run_dir=tmp_path, **frozen)
    for other in ({"looks": [2, 4], "margin": 20.0}, {"looks": [2, 3]}, {"margin": 20.0}):
        with pytest.raises(RunError, match="begun with"):
            compare(digits, attentions=["se"], run_dir=tmp_path, **frozen, **other)


def test_a_comparison_with_looks_goes_on_to_the_last_one(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any]
) -> None:
    found = compare(digits, attentions=["none"], looks=[2, 3], margin=20.0, run_dir=tmp_path, **settings)
    assert found.document["seeds"] == [0, 1, 2]
    assert found.document["looks"] == [[0, 1], [0, 1, 2]]
    assert found.document["stopped"]


def test_a_comparison_that_is_stopped_between_two_looks_ends_as_one_that_was_not(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from attngraft.comparison.comparison_context import ComparisonContext

    options = {"attentions": ["none"], "looks": [2, 3], "margin": 20.0, **settings}
    whole = compare(digits, run_dir=tmp_path / "whole", **options)
    assert whole.document["seeds"] == [0, 1, 2]
    real = ComparisonContext.fit

    def stopped(self: ComparisonContext, variant: Any, seed: int, progress: Any) -> Any:
        if seed == 2:
            raise KeyboardInterrupt
        return real(self, variant, seed, progress)

    with monkeypatch.context() as patch:
        patch.setattr(ComparisonContext, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            compare(digits, run_dir=tmp_path / "stopped", **options)
    first = read_plain(tmp_path / "stopped/comparison.json")
    assert (first["seeds"], first["look"]["seeds"]) == ([0, 1], 2)
    again = compare(digits, run_dir=tmp_path / "stopped", **options)
    for key in ("effects", "looks", "look", "stopped", "seeds", "analysis"):
        kept, found = (_without_times(document[key]) for document in (whole.document, again.document))
        assert found == kept, key


def _without_times(value: Any) -> Any:
    """The sentence of an effect ends with a price that was timed."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [{k: v for k, v in entry.items() if k != "sentence"} for entry in value]
    return value


def test_a_variant_that_diverges_does_not_block_the_others(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from attngraft.comparison.comparison_context import ComparisonContext

    real = ComparisonContext.fit

    def fit(self: ComparisonContext, variant: Any, seed: int, progress: Any) -> Any:
        if variant.name == "se" and seed == 1:
            raise NotFiniteError("the loss is nan in step 3")
        return real(self, variant, seed, progress)

    monkeypatch.setattr(ComparisonContext, "fit", fit)
    found = compare(digits, attentions=["se", "eca"], seeds=2, run_dir=tmp_path, **settings)
    assert found.verdicts["se"] == "diverged"
    assert found.verdicts["eca"] != "diverged"
    assert found.document["left_out"] == [{"variant": "se", "seed": 1, "reason": "the loss is nan in step 3"}]
    assert "Training diverged: se, seed 1." in str(found)
    assert "the loss is nan in step 3" in write_report(tmp_path).read_text(encoding="utf-8")
    json.dumps(found.document, allow_nan=False)


def test_where_the_plain_backbone_diverges_with_every_seed_the_error_stands() -> None:
    class Context:
        world = World()

        def fit(self, variant: Any, seed: int, progress: Any) -> Any:
            raise NotFiniteError("nan")

        def title(self, seed: int) -> str:
            return f"seed {seed}"

    with pytest.raises(NotFiniteError):
        run_all(Context(), parse_variants(["se"], []), [0, 1], None)  # type: ignore[arg-type]
    assert Results().failed_seeds() == {}


def test_every_seed_that_was_trained_in_all_variants_enters(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any]
) -> None:
    compare(digits, attentions=["se"], seeds=[0, 4], run_dir=tmp_path, **settings)
    document = read_plain(tmp_path / "comparison.json")
    assert document["seeds"] == [0, 4]
    fewer = compare(digits, attentions=["se"], seeds=[0], run_dir=tmp_path, **settings)
    assert fewer.document["seeds"] == [0, 4]


def test_each_seed_can_draw_its_own_training_images(tmp_path: Path, digits: Dataset, settings: dict[str, Any]) -> None:
    found = compare(digits, attentions=["se"], seeds=2, resample_train=0.5, run_dir=tmp_path, **settings)
    assert "training sets like this one (each seed drew 50 %)" in str(found)
    runs = [read_plain(tmp_path / f"runs/{name}/seed-{seed}/run.json") for name in ("none", "se") for seed in (0, 1)]
    assert {run["data"]["train_images"] for run in runs} == {30}
    assert {run["resample_train"] for run in runs} == {0.5}


def test_the_scope_stands_under_the_verdicts(finished: Any) -> None:
    assert "Scope: this training set, these hyper-parameters, random weights, images like the 60 test images." in str(
        finished
    )
    assert "2 seeds miss a failure that strikes 1 run in 10 with a chance of 81 %." in str(finished)
    assert "Runs with other seeds vary more" in str(finished)
