"""The analysis of variance, its interval's simulated coverage, and the sentences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import slow
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit
from simulated_comparisons import crossed, probit

from attngraft.comparison.analysis_plan import AnalysisPlan
from attngraft.comparison.verdicts import Judge
from attngraft.errors import ConfigError
from attngraft.statistics.effects import Effect, crossed_effect, mean_squares
from attngraft.statistics.multiplicity import holm
from attngraft.statistics.power import at_corrected_level, smallest_detectable
from attngraft.tasks import Classification

CELLS = [(seeds, images, noise) for seeds in (3, 5) for images in (150, 1000, 2500) for noise in (0.03, 0.1, 0.3)]
JUDGE = Judge(AnalysisPlan(Classification(("cat", "dog")).metrics["top1"]))
judge, control_clause, exclusion_clause = JUDGE.verdict, JUDGE.control_clause, JUDGE.exclusion_clause


def coverage(cell, experiments, *, shift=0.1, rng_seed=7):
    """The share of experiments whose interval holds the truth: crossed, and images only (McNemar's way)."""
    seeds, images, noise = cell
    rng = np.random.default_rng([rng_seed, seeds, images, int(1000 * noise)])
    hits = {"crossed": 0, "images only": 0}
    for _ in range(experiments // 50):  # in chunks, for the memory
        matrix, truth = probit(rng, 50, seeds, images, noise, shift)
        mean, error, df = crossed(matrix)
        off = np.abs(mean - truth)
        hits["crossed"] += int((off <= stdtrit(df, 0.975) * error).sum())
        by_image = matrix.mean(-2)
        hits["images only"] += int((off <= 1.96 * by_image.std(-1, ddof=1) / math.sqrt(images)).sum())
    return {name: count / experiments for name, count in hits.items()}


def draw(seed=0, seeds=5, images=400, gain=0.05, change=0.1):
    """Plain random differences with a mean of about ``gain``."""
    rng = np.random.default_rng(seed)
    p = [(change - gain) / 2, 1 - change, (change + gain) / 2]
    return rng.choice([-1, 0, 1], p=p, size=(seeds, images))


def make_effect(mean, low, high, **changes):
    values = {"seeds": 5, "images": 400, "standard_error": (high - low) / 4, "degrees_of_freedom": 20.0}
    values |= {"p_value": 0.001 if low > 0 or high < 0 else 0.4}
    values |= {"seed_variance": 1e-5, "image_variance": 0.01, "residual_variance": 0.05}
    return Effect(mean, low, high, **(values | changes))


def test_small_example_worked_by_hand():
    # d = [[1, 0, 0], [1, 1, 0]]; grand mean 1/2, seed means 1/3 and 2/3, image means 1, 1/2, 0.
    # SS_seed = 3 (1/36 + 1/36) = 1/6 on 1 degree of freedom     -> MS 1/6
    # SS_image = 2 (1/4 + 0 + 1/4) = 1 on 2                      -> MS 1/2
    # SS_total = 6 / 4 = 3/2, so SS_residual = 1/3 on 2          -> MS 1/6
    # Var(mean) = (1/6 + 1/2 - 1/6) / 6 = 1/12
    # df = (1/2)^2 / ((1/6)^2 / 1 + (1/2)^2 / 2 + (1/6)^2 / 2) = (1/4) / (12/72) = 3/2
    effect = crossed_effect([[1, 0, 0], [1, 1, 0]], limit=math.inf)
    assert effect.mean == 0.5
    assert effect.standard_error == pytest.approx(math.sqrt(1 / 12))
    assert effect.degrees_of_freedom == pytest.approx(1.5)
    components = (effect.seed_variance, effect.image_variance, effect.residual_variance)
    assert components == pytest.approx((0, 1 / 6, 1 / 6), abs=1e-12)
    half = 6.016663 * math.sqrt(1 / 12)  # t(0.975; 1.5)
    assert (effect.low, effect.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)


def test_negative_variance_estimate_only_widens_the_interval():
    # Seeds that balance each other exactly: MS_seed = 0 < MS_residual, so it counts as MS_residual.
    effect = crossed_effect([[1, 0, 0, 0], [0, 1, 0, 0]])
    ms_seed, ms_image, ms_residual = mean_squares(np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]]))
    assert ms_seed == 0 < ms_residual
    assert effect.seed_variance == 0
    assert effect.standard_error**2 >= (ms_seed + ms_image - ms_residual) / 8


@pytest.mark.parametrize("cell", CELLS)
def test_interval_covers_the_truth(cell):
    assert coverage(cell, 600)["crossed"] >= 0.93 - 0.01  # a standard error of 600 experiments is 0.01


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_interval_covers_the_truth_in_many_experiments(cell):
    assert coverage(cell, 2000, rng_seed=8)["crossed"] >= 0.93


def test_images_only_interval_fails_where_seed_noise_dominates():
    share = coverage((3, 2500, 0.3), 300)
    assert share["images only"] < 0.6 < 0.9 < share["crossed"]


@pytest.mark.parametrize(("seeds", "images", "noise"), [(3, 300, 0.03), (3, 300, 0.3), slow(5, 600, 0.2)])
def test_a_against_a_is_called_at_most_at_the_nominal_rate(seeds, images, noise):
    rng = np.random.default_rng(3)
    difference, truth = probit(rng, 300, seeds, images, noise, shift=0.0)
    assert truth == 0
    kinds = [judge(crossed_effect(matrix), name="none").kind for matrix in difference]
    assert set(kinds) <= {"helps", "hurts", "no evidence"}
    assert sum(kind != "no evidence" for kind in kinds) / 300 <= 0.05 + 0.025


matrices = st.tuples(st.integers(2, 5), st.integers(2, 12)).flatmap(
    lambda shape: st.lists(
        st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    ).map(np.array)
)


@given(matrices)
def test_interval_contains_the_mean_and_all_is_finite(matrix):
    effect = crossed_effect(matrix)
    assert -1 <= effect.low <= effect.mean <= effect.high <= 1
    assert effect.low < effect.high
    assert 0 <= effect.p_value <= 1
    assert all(math.isfinite(value) for value in effect.to_json().values() if isinstance(value, float))
    assert effect.exclusion_low <= effect.low
    assert effect.high <= effect.exclusion_high
    # the interval and the p-value tell one story
    if effect.method != "one image" and abs(effect.p_value - 0.05) > 1e-6:
        assert (effect.p_value < 0.05) == (effect.low > 0 or effect.high < 0)


@given(matrices, st.floats(-3, 3))
def test_a_shift_moves_the_interval_and_changes_nothing_else(matrix, shift):
    plain, moved = crossed_effect(matrix, limit=math.inf), crossed_effect(matrix + shift, limit=math.inf)
    if plain.method == "crossed" and moved.method == "crossed":
        assert moved.mean == pytest.approx(plain.mean + shift, abs=1e-9)
        assert moved.standard_error == pytest.approx(plain.standard_error, abs=1e-6)
        assert moved.low - shift == pytest.approx(plain.low, abs=1e-5)


@given(matrices)
def test_the_opposite_difference_has_the_opposite_effect(matrix):
    plain, negated = crossed_effect(matrix), crossed_effect(-matrix)
    assert (negated.low, negated.mean, negated.high) == pytest.approx((-plain.high, -plain.mean, -plain.low))
    assert negated.p_value == pytest.approx(plain.p_value)


@given(matrices, st.randoms())
def test_the_order_of_seeds_and_images_does_not_matter(matrix, random):
    rows, columns = list(range(matrix.shape[0])), list(range(matrix.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    plain, shuffled = crossed_effect(matrix), crossed_effect(matrix[rows][:, columns])
    assert (shuffled.low, shuffled.high, shuffled.p_value) == pytest.approx((plain.low, plain.high, plain.p_value))


def test_one_seed_uses_images_only_and_never_decides():
    effect = crossed_effect(draw(seeds=1, gain=0.08))
    assert effect.method == "images only"
    assert not effect.seed_variance_known
    assert effect.low > 0
    verdict = judge(effect, name="cbam")
    assert verdict.kind == "one seed"
    assert "add seeds" in verdict.sentence


def test_equal_answers_everywhere_get_a_bound_and_not_a_width_of_zero():
    effect = crossed_effect(np.zeros((3, 300)))
    assert (effect.mean, effect.p_value, effect.method) == (0, 1, "no variation")
    assert effect.high == -effect.low == pytest.approx(3 / 300, rel=0.02)  # the rule of three
    verdict = judge(effect, name="cbam")
    assert verdict.kind == "no evidence"
    assert "right on the same images in every seed" in verdict.sentence


def test_equal_nonzero_answers_on_few_images_decide_nothing():
    few, many = crossed_effect(np.ones((3, 3))), crossed_effect(np.ones((3, 30)))
    assert few.low < 0 < few.high == 1
    assert judge(few, name="x").kind == "no evidence"
    assert judge(many, name="x").kind == "helps"


def test_one_image_decides_nothing():
    effect = crossed_effect([[1], [0], [1]])
    assert (effect.low, effect.high, effect.p_value) == (-1, 1, 1)
    assert "can see no effect at all" in judge(effect, name="x").sentence


@pytest.mark.parametrize("bad", [[], [[]], [1, 0], [[1, math.nan]]])
def test_bad_differences_raise(bad):
    with pytest.raises(ConfigError, match="expected"):
        crossed_effect(bad)


def test_bad_confidence_raises():
    with pytest.raises(ConfigError, match=r"for example 0\.95"):
        crossed_effect([[1, 0], [0, 0]], confidence=95)


def test_holm_known_values_and_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([0.02]) == (0.02,)
    assert holm([]) == ()


def test_smallest_detectable_grows_with_power_and_shrinks_with_images():
    effect, larger = crossed_effect(draw(images=400)), crossed_effect(draw(images=4000))
    assert (
        smallest_detectable(effect, 0.5).size
        < smallest_detectable(effect).size
        < smallest_detectable(effect, 0.95).size
    )
    assert smallest_detectable(larger).size < smallest_detectable(effect).size


def test_sentence_of_help_and_of_hurt():
    verdict = judge(make_effect(0.018, 0.006, 0.030), name="cbam")
    assert verdict.kind == "helps"
    assert verdict.sentence == "cbam helps: +1.8 points top-1 (95 % interval +0.6 to +3.0; 5 seeds x 400 images)"
    verdict = judge(make_effect(-0.018, -0.030, -0.006), name="cbam", against="static")
    assert verdict.kind == "hurts"
    assert verdict.sentence.startswith("cbam hurts against 'static': -1.8 points")


def test_sentence_of_no_evidence_says_what_could_have_been_seen_and_gives_no_advice_from_what_was_seen():
    verdict = judge(crossed_effect(draw(gain=0.015)), name="cbam")
    assert verdict.kind == "no evidence"
    for part in (
        "no evidence that cbam helps or hurts",
        "could have seen an effect of",
        "80 % power",
        "by the noise of 5 seeds",
    ):
        assert part in verdict.sentence
    for part in ("would settle", "more seeds"):  # what was seen is no plan
        assert part not in verdict.sentence


def test_correction_can_take_a_verdict_away_and_says_so():
    effect = make_effect(0.018, 0.006, 0.030, p_value=0.02)
    verdict = judge(effect, 0.08, name="cbam", comparisons=4)
    assert verdict.kind == "no evidence"
    assert "does not count after correction for 4 comparisons" in verdict.sentence
    assert judge(effect, 0.04, name="cbam", comparisons=2).kind == "helps"


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (make_effect(0.001, -0.008, 0.010), "; the control 'static' does as well (difference +0.1, -0.8 to +1.0)"),
        (make_effect(0.02, 0.01, 0.03), "; this is beyond the control 'static'"),
        (make_effect(-0.02, -0.03, -0.01), "; the control 'static' does better"),
        (make_effect(0.02, -0.01, 0.05), "; cbam is not shown to go beyond the control 'static'"),
        (make_effect(0.02, 0.01, 0.03, seed_variance_known=False, seeds=1), "; one seed cannot say"),
    ],
)
def test_control_clause(effect, words):
    assert control_clause("cbam", "static", effect).startswith(words)


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (make_effect(0.0, -0.005, 0.005), "; a gain or a loss of 1 point or more is unlikely"),
        (make_effect(0.01, -0.005, 0.03), "; a loss of 1 point or more is unlikely"),
        (make_effect(-0.01, -0.03, 0.005), "; a gain of 1 point or more is unlikely"),
        (make_effect(0.0, -0.05, 0.05), ""),
    ],
)
def test_exclusion_clause(effect, words):
    assert exclusion_clause(effect) == words


def test_with_several_comparisons_the_forecasts_are_made_at_the_corrected_level():
    """Otherwise a corrected verdict would contradict its own sentence."""
    rng = np.random.default_rng(3)
    difference = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.88, 0.07], size=(5, 1000))
    effect = crossed_effect(difference)
    assert effect.p_value < 0.05
    alone, among = smallest_detectable(effect).size, smallest_detectable(at_corrected_level(effect, 20)).size
    assert among > alone
    verdict = judge(effect, min(1.0, 20 * effect.p_value), name="cbam", comparisons=20)
    if verdict.kind == "no evidence":
        assert f"{100 * among:.1f} points" in verdict.sentence
