"""The analysis of variance, its interval's simulated coverage, and the sentences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, stdtrit

from attngraft.comparison.verdicts import Judge
from attngraft.errors import ConfigError
from attngraft.statistics.effects import Effect, crossed_effect, error_of_mean, mean_squares, per_class_effects
from attngraft.statistics.multiplicity import holm
from attngraft.statistics.power import at_corrected_level, needed, smallest_detectable
from attngraft.tasks import Classification

CELLS = [(seeds, images, noise) for seeds in (3, 5) for images in (150, 1000, 2500) for noise in (0.03, 0.1, 0.3)]
IMAGE_SD, PAIR_SD, RUN_SD = 1.2, 0.4, 0.7  # of the latent score: shared by both variants, per variant, per answer

JUDGE = Judge(Classification(("cat", "dog")).metrics["top1"])
judge, control_clause, non_inferiority_clause = JUDGE.verdict, JUDGE.control_clause, JUDGE.non_inferiority_clause


def answers(rng, experiments, seeds, images, noise, shift):
    """(E, S, N) differences of correctness from a latent probit model, and the true effect."""

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    shared = 1.0 + np.float32(IMAGE_SD) * normal(experiments, 1, images)

    def correct(mean):
        score = shared + np.float32(mean) + np.float32(noise) * normal(experiments, seeds, 1)
        score = score + np.float32(PAIR_SD) * normal(experiments, 1, images)
        return score + np.float32(RUN_SD) * normal(experiments, seeds, images) > 0

    total = math.sqrt(IMAGE_SD**2 + PAIR_SD**2 + RUN_SD**2 + noise**2)
    truth = ndtr((1 + shift) / total) - ndtr(1 / total)
    return correct(shift).astype(np.int8) - correct(0.0).astype(np.int8), float(truth)


def coverage(cell, experiments, *, shift=0.1, rng_seed=7):
    """The share of experiments whose interval holds the truth: crossed, and images only (McNemar's way)."""
    seeds, images, noise = cell
    rng = np.random.default_rng([rng_seed, seeds, images, int(1000 * noise)])
    hits = {"crossed": 0, "images only": 0}
    for _ in range(experiments // 50):  # in chunks, for the memory
        difference, truth = answers(rng, 50, seeds, images, noise, shift)
        matrix = difference.astype(np.float64)
        error, df = error_of_mean(*mean_squares(matrix), seeds, images)
        off = np.abs(matrix.mean((-2, -1)) - truth)
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


@pytest.mark.parametrize(("seeds", "images", "noise"), [(3, 300, 0.03), (3, 300, 0.3), (5, 600, 0.2)])
def test_a_against_a_is_called_at_most_at_the_nominal_rate(seeds, images, noise):
    rng = np.random.default_rng(3)
    difference, truth = answers(rng, 300, seeds, images, noise, shift=0.0)
    assert truth == 0
    kinds = [judge(crossed_effect(matrix), name="none").kind for matrix in difference]
    assert set(kinds) <= {"helps", "hurts", "no evidence"}
    assert sum(kind != "no evidence" for kind in kinds) / 300 <= 0.05 + 0.025


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_true_effect_of_the_detectable_size_is_found_with_about_the_power(seeds):
    rng = np.random.default_rng(5)
    null, _ = answers(rng, 200, seeds, 500, 0.1, shift=0.0)
    sizes = [smallest_detectable(crossed_effect(matrix)) for matrix in null]
    size = float(np.sqrt(np.mean(np.square(sizes))))  # the variance is what is estimated without bias
    found = [judge(crossed_effect(matrix + size), name="x").kind == "helps" for matrix in null]
    assert 0.65 <= np.mean(found) <= 0.95


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
    assert needed(effect) == (None, None)


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
    assert smallest_detectable(effect, 0.5) < smallest_detectable(effect, 0.8) < smallest_detectable(effect, 0.95)
    assert smallest_detectable(larger) < smallest_detectable(effect)


def test_needed_finds_the_lever_that_helps():
    seeds_noisy = make_effect(0.01, -0.01, 0.03, seeds=3, seed_variance=1e-4, image_variance=1e-6)
    more_seeds, images = needed(seeds_noisy)
    assert more_seeds is not None
    assert 0 < more_seeds < 30
    assert images is None  # the seeds' share of the variance stays, whatever the images
    images_noisy = make_effect(0.01, -0.01, 0.03, seed_variance=1e-9, image_variance=0.05)
    more_seeds, images = needed(images_noisy)
    assert more_seeds is None
    assert images is not None
    assert images > 400


def test_nothing_is_promised_from_images_where_the_seed_variance_was_estimated_as_nothing():
    lucky = make_effect(0.01, -0.01, 0.03, seeds=3, seed_variance=0.0, image_variance=0.05)
    assert needed(lucky).images is None


def test_needed_is_enough_by_its_own_forecast():
    effect = crossed_effect(draw(seeds=3, images=200, gain=0.02))
    more_seeds, images = needed(effect)
    assert more_seeds is not None
    for seeds, count in ((3 + more_seeds, 200), *(((3, images),) if images else ())):
        residual = effect.residual_variance
        squares = (residual + count * effect.seed_variance, residual + seeds * effect.image_variance, residual)
        error, df = (float(value) for value in error_of_mean(*map(np.float64, squares), seeds, count))
        forecast = make_effect(effect.mean, 0, 1, standard_error=error, degrees_of_freedom=df)
        assert smallest_detectable(forecast) <= effect.mean + 1e-9


def test_per_class_effects_are_the_effects_of_the_classes():
    difference, labels = draw(images=90, gain=0.3, change=0.5), np.arange(90) % 3
    effects = per_class_effects(difference, labels, ["ants", "bees", "empty", "wasps"][:3])
    assert [entry.class_name for entry in effects] == ["ants", "bees", "empty"]
    assert effects[1].effect == crossed_effect(difference[:, labels == 1])
    assert all(entry.p_adjusted >= entry.effect.p_value for entry in effects)
    assert set(effects[0].to_json()) == {"class", "images", "mean", "low", "high", "p_adjusted"}


def test_classes_without_test_images_are_left_out_and_tiny_ones_are_honest():
    effects = per_class_effects([[1, 0, 1], [1, 1, 1]], [0, 0, 2], ["a", "b", "c"])
    assert [entry.class_name for entry in effects] == ["a", "c"]
    assert all(entry.effect.low < 0 for entry in effects)


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 5], [0, -1, 0]])
def test_labels_that_do_not_fit_raise(labels):
    with pytest.raises(ConfigError, match="expected"):
        per_class_effects([[1, 0, 1]], labels, ["a", "b"])


def test_sentence_of_help_and_of_hurt():
    verdict = judge(make_effect(0.018, 0.006, 0.030), name="cbam")
    assert verdict.kind == "helps"
    assert verdict.sentence == "cbam helps: +1.8 points top-1 (95 % interval +0.6 to +3.0; 5 seeds x 400 images)"
    verdict = judge(make_effect(-0.018, -0.030, -0.006), name="cbam", against="static")
    assert verdict.kind == "hurts"
    assert verdict.sentence.startswith("cbam hurts against 'static': -1.8 points")


def test_sentence_of_no_evidence_says_what_could_have_been_seen_and_what_would_settle_it():
    verdict = judge(crossed_effect(draw(gain=0.015)), name="cbam")
    assert verdict.kind == "no evidence"
    for part in ("no evidence that cbam helps or hurts", "could have seen an effect of", "80 % power", "would settle"):
        assert part in verdict.sentence


def test_correction_can_take_a_verdict_away_and_says_so():
    effect = make_effect(0.018, 0.006, 0.030, p_value=0.02)
    verdict = judge(effect, 0.08, name="cbam", comparisons=4)
    assert verdict.kind == "no evidence"
    assert "not after correction for 4 comparisons" in verdict.sentence
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
def test_non_inferiority_clause(effect, words):
    assert non_inferiority_clause(effect) == words


def test_with_several_comparisons_the_forecasts_are_made_at_the_corrected_level():
    """Otherwise a corrected verdict would contradict its own sentence."""
    rng = np.random.default_rng(3)
    difference = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.88, 0.07], size=(5, 1000))
    effect = crossed_effect(difference)
    assert effect.p_value < 0.05
    alone, among = smallest_detectable(effect), smallest_detectable(at_corrected_level(effect, 20))
    assert among > alone
    assert needed(at_corrected_level(effect, 20)).more_seeds > needed(effect).more_seeds
    verdict = judge(effect, min(1.0, 20 * effect.p_value), name="cbam", comparisons=20)
    if verdict.kind == "no evidence":
        assert f"{100 * among:.1f} points" in verdict.sentence
