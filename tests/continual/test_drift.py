"""The drift test: distances as SciPy computes them, false alarms given the reference, words, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from attngraft.backbones import create_backbone
from attngraft.continual.drift.detector import (
    Detector,
    DriftPolicy,
    calibrate,
    class_proportions,
    effective_size,
    image_weights,
)
from attngraft.continual.drift.drift_reference import INPUT_STATISTICS, Columns, Reference, input_statistics
from attngraft.continual.drift.ks_test import CUTS, Grid, distances, p_values
from attngraft.data import ImageSet, corrupted, load_labelled
from attngraft.data.pixel_store import decode_array
from attngraft.errors import ConfigError
from attngraft.training import EvaluationContext, evaluate

CLASSES = ("cat", "dog", "emu")
POLICY = DriftPolicy(window=100)
INPUTS = len(INPUT_STATISTICS)


def stream(
    count: int, seed: int, priors: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3), shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a calibrated model of three classes, and inputs that depend on the class; sharpness shifted."""
    chance = np.random.default_rng(seed)
    true = chance.choice(3, size=count, p=priors)
    seen = np.eye(3)[true] * 2 + chance.normal(size=(count, 3))
    odds = np.exp(2 * seen)  # the posterior under equal priors and unit noise
    inputs = chance.normal(size=(count, INPUTS)) + 0.3 * true[:, None]
    inputs[:, 6] += shift
    inputs[:, 8] = 0
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32), inputs.astype(np.float32)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return calibrate(Reference(*stream(2000, 0), classes=CLASSES), POLICY)


# --- distances ---------------------------------------------------------------------------------------------------


values = st.lists(st.sampled_from([0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]), min_size=1, max_size=40)


@given(values, values)
def test_the_distance_is_that_of_the_definition_with_any_ties(one: list[float], other: list[float]):
    reference, window = np.array(one)[:, None], np.array(other)[:, None]
    grid = Grid.of(reference)
    found = distances(grid.curves(grid.codes(window)), grid.curves(grid.codes(reference)))[0]
    expected = max(abs(np.mean(reference <= value) - np.mean(window <= value)) for value in [*one, *other])
    # the grid has no cut between two values that the reference has none between
    between = [v for v in other if v not in one and min(one) <= v <= max(one)]
    assert found <= expected + 1e-6
    if not between:
        assert found == pytest.approx(expected, abs=1e-6)


def test_of_many_values_the_distance_is_scipys_or_less_by_one_cell_at_most():
    chance = np.random.default_rng(0)
    reference, window = chance.normal(size=(3000, 2)), chance.normal(0.3, size=(200, 2))
    grid = Grid.of(reference)
    found = distances(grid.curves(grid.codes(window)), grid.curves(grid.codes(reference)))
    for j in range(2):
        exact = ks_2samp(reference[:, j], window[:, j], method="asymp")
        assert exact.statistic - 1 / (CUTS - 2) <= found[j] <= exact.statistic + 1e-6
        assert p_values(np.array([exact.statistic]), 200, 3000)[0] == pytest.approx(exact.pvalue, rel=1e-6)


def test_a_value_that_many_share_may_waver_in_the_last_digits():
    reference = np.repeat([0.0, 1.0], 50)[:, None]
    grid = Grid.of(reference)
    wavering = np.repeat([1e-7, 1 - 1e-7], 50)[:, None]
    assert distances(grid.curves(grid.codes(wavering)), grid.curves(grid.codes(reference)))[0] == 0


def test_a_constant_that_becomes_another_constant_is_seen():
    grid = Grid.of(np.zeros((10, 1)))
    curves = [grid.curves(grid.codes(np.full((10, 1), value))) for value in (0.0, 0.001, -0.001)]
    assert [distances(curves[0], curve)[0] for curve in curves] == [0, 1, 1]


# --- false alarms and power --------------------------------------------------------------------------------------


def test_false_alarms_are_rare_for_every_reference():
    """Of four references, none may alarm clearly more often than at the stated rate."""
    for seed in range(4):
        tester = calibrate(Reference(*stream(250, seed)), POLICY, seed=seed)
        alarms = sum(tester.test(*stream(100, 10_000 * (seed + 1) + i)).drift for i in range(100))
        assert alarms <= 6  # at 1 % there are more than 6 of 100 in one of 14,000 cases


def test_false_alarms_of_smaller_windows_are_rare_too(detector: Detector):
    assert sum(detector.test(*stream(60, 9000 + i)).drift for i in range(150)) <= 7


def test_the_threshold_is_at_most_bonferronis_and_stricter_for_a_small_reference():
    thresholds = [calibrate(Reference(*stream(count, 1)), POLICY).threshold for count in (200, 2000)]
    assert 0 < thresholds[0] < thresholds[1] <= POLICY.false_alarms


def test_the_same_seed_gives_the_same_threshold():
    reference = Reference(*stream(300, 0))
    found = [calibrate(reference, POLICY, seed=seed).threshold for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_a_shift_is_seen_and_named(detector: Detector):
    found = detector.test(*stream(100, 5, shift=1.5))
    assert found.drift
    assert found.p_value < found.threshold == detector.threshold
    assert found.reasons == ("input sharpness (higher)",)
    assert found.images == 100
    assert not found.only_proportions
    assert detector.test(*stream(100, 5, shift=-1.5)).reasons == ("input sharpness (lower)",)


def test_uncertain_answers_are_seen_and_named(detector: Detector):
    probabilities, inputs = stream(100, 6)
    found = detector.test(0.2 * probabilities + 0.8 / 3, inputs)
    assert "confidence (lower)" in found.reasons
    assert not found.only_proportions


def test_a_stream_as_usual_has_no_reasons(detector: Detector):
    found = detector.test(*stream(100, 7))
    assert (found.drift, found.reasons, found.only_proportions) == (False, (), False)
    assert detector.threshold <= found.p_value <= 1


def test_other_proportions_of_the_classes_are_called_that(detector: Detector):
    tests = [detector.test(*stream(100, seed, priors=(0.9, 0.05, 0.05))) for seed in range(20)]
    assert all(test.drift for test in tests)
    said = [test for test in tests if test.only_proportions]
    assert len(said) >= 18
    assert said[0].reasons[0].startswith("other proportions of the classes ('cat' 3")
    assert "class 'cat' (higher)" in said[0].reasons


def test_drift_together_with_other_proportions_is_not_explained_by_them(detector: Detector):
    assert not detector.test(*stream(100, 3, priors=(0.9, 0.05, 0.05), shift=1.5)).only_proportions


def test_proportions_are_found_and_weights_make_them():
    usual = np.full(3, 1 / 3)
    wanted = (0.7, 0.2, 0.1)
    known, window = stream(20_000, 0)[0], stream(20_000, 1, priors=wanted)[0]
    found = class_proportions(window, usual)
    np.testing.assert_allclose(found, wanted, atol=0.03)
    weights = image_weights(known, usual, found)
    np.testing.assert_allclose(
        (weights[:, None] * known).sum(0) / weights.sum(), window.mean(axis=0, dtype=float), atol=0.02
    )
    assert effective_size(np.array([1.0, 1, 1, 1])) == 4
    assert effective_size(np.array([3.0, 1])) == pytest.approx(16 / 10)
    assert effective_size(np.zeros(3)) == 0


def test_columns_without_information_neither_alarm_nor_fail():
    probabilities, inputs = np.ones((400, 1), dtype=np.float32), np.zeros((400, INPUTS), dtype=np.float32)
    tester = calibrate(Reference(probabilities, inputs), POLICY)
    assert not tester.test(probabilities[:100], inputs[:100]).drift
    assert tester.test(probabilities[:100], inputs[:100] + 0.5).drift


def test_of_many_classes_the_most_frequent_are_tested_alone():
    chance = np.random.default_rng(0)
    logits = chance.normal(size=(600, 200))
    logits[np.arange(600), chance.integers(0, 40, 600)] += 8  # the others never come
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    inputs = chance.normal(size=(600, 2))
    reference = Reference(probabilities[:500].astype(np.float32), inputs[:500].astype(np.float32))
    tester = calibrate(reference, replace(POLICY, most_classes=10))
    names = Columns.choose(reference, 10).names
    assert len(names) == 1 + 10 + 1 + 2
    assert names[0] == "confidence"
    assert names[11] == "the other 190 classes"
    assert all(0 <= int(name.removeprefix("class ")) < 40 for name in names[1:11])
    assert not tester.test(probabilities[500:].astype(np.float32), inputs[500:].astype(np.float32)).drift


# --- real images and a real network ------------------------------------------------------------------------------


def test_noise_on_real_images_is_seen_and_clean_images_are_not():
    images, classes = load_labelled("cluttered-digits", (), image_size=32, extend=True)
    model = create_backbone("small-cnn", num_classes=10).eval()

    def seen(part: ImageSet) -> tuple[np.ndarray, np.ndarray]:
        return evaluate(model, part, EvaluationContext.of(model)).probabilities, input_statistics(part)

    order = np.random.default_rng(0).permutation(len(images))
    tester = calibrate(Reference(*seen(images.select(order[:400])), classes=classes), POLICY)
    rest = images.select(order[400:800])
    assert not any(tester.test(*seen(rest.select(np.arange(i, i + 100)))).drift for i in (0, 100, 200, 300))
    noisy = tester.test(*seen(corrupted(rest.select(np.arange(100)), "gaussian-noise", 5)))
    assert "input noise (higher)" in noisy.reasons


# --- input statistics --------------------------------------------------------------------------------------------


def set_of(pixels: np.ndarray) -> ImageSet:
    decoded = decode_array(pixels, limit=1000)
    count = len(pixels)
    return ImageSet(
        tuple(map(str, range(count))), np.zeros(count, int), decoded.hashes, decoded.store, np.arange(count)
    )


def test_input_statistics_by_hand():
    stripes = np.zeros((4, 4, 3), dtype=np.uint8)
    stripes[:, ::2, 0] = 255  # red columns: every horizontal step in grey is 1/3, no vertical one is
    plain = np.full((4, 4, 3), 51, dtype=np.uint8)
    found = dict(zip(INPUT_STATISTICS, input_statistics(set_of(np.stack([stripes, plain]))).T, strict=True))
    assert found["red mean"] == pytest.approx([0.5, 0.2])
    assert found["green mean"] == pytest.approx([0, 0.2])
    assert found["red spread"] == pytest.approx([0.5, 0], abs=1e-6)
    assert found["sharpness"] == pytest.approx([1 / 6, 0])
    assert found["noise"] == pytest.approx([0, 0], abs=1e-6)
    assert found["saturated pixels"] == pytest.approx([1, 0])


def test_the_noise_statistic_measures_the_spread_of_noise():
    noise = np.random.default_rng(0).normal(128, 10, size=(1, 200, 200, 1)).repeat(3, axis=3)
    found = input_statistics(set_of(np.rint(noise).astype(np.uint8)))[0, INPUT_STATISTICS.index("noise")]
    assert found * 255 == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (1, 5), (3, 3)])
def test_tiny_images_have_statistics(size: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    assert np.isfinite(input_statistics(set_of(pixels))).all()


def test_statistics_do_not_depend_on_the_company():
    from attngraft.data import joined

    chance = np.random.default_rng(0)
    sets = [set_of(chance.integers(0, 256, (3, side, 9, 3), dtype=np.uint8)) for side in (7, 5, 9)]
    alone = np.concatenate([input_statistics(one) for one in sets])
    together = joined(sets).select([8, 0, 4, 2])
    np.testing.assert_array_equal(input_statistics(together), alone[[8, 0, 4, 2]])
    assert input_statistics(together.select([])).shape == (0, INPUTS)


# --- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "window", "told"),
    [
        (
            199,
            100,
            "has 199 images: windows of 100 need at least 200; give more held-out images, or take .* at most 99",
        ),
        (90, 100, "need at least 200; give more held-out images.$"),
    ],
)
def test_a_reference_that_is_too_small_says_how_many_are_needed(count: int, window: int, told: str):
    with pytest.raises(ConfigError, match=told):
        calibrate(Reference(*stream(count, 0)), DriftPolicy(window=window))


@pytest.mark.parametrize("count", [0, 49, 101])
def test_windows_of_other_sizes_are_refused(detector: Detector, count: int):
    with pytest.raises(ConfigError, match=f"the window has {count} images: expected 50 to 100"):
        detector.test(*stream(count, 0))


def test_answers_of_another_model_are_refused(detector: Detector):
    probabilities, inputs = stream(100, 0)
    with pytest.raises(ConfigError, match="has 2 classes and the reference 3"):
        detector.test(probabilities[:, :2], inputs)
    with pytest.raises(ConfigError, match="has 4 input statistics and the reference 9"):
        detector.test(probabilities, inputs[:, :4])
    with pytest.raises(ConfigError, match="for the same N images"):
        detector.test(probabilities, inputs[:60])
    broken = inputs.copy()
    broken[3, 3] = np.nan
    with pytest.raises(ConfigError, match="not finite"):
        detector.test(probabilities, broken)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"window": 49}, "window is 49"),
        ({"false_alarms": 0}, "false_alarms is 0"),
        ({"false_alarms": 0.0005}, "at least 0.001"),
        ({"confidence": 1}, "confidence is 1"),
        ({"most_classes": 0}, "most_classes is 0"),
    ],
)
def test_policies_out_of_range_are_errors(values: dict, told: str):
    with pytest.raises(ConfigError, match=told):
        DriftPolicy(**values)


@pytest.mark.parametrize(
    ("errors", "classes", "told"),
    [(np.zeros(9, dtype=bool), (), "errors have the shape"), (None, ("a", "b"), "2 class names for 3")],
)
def test_parts_of_a_reference_must_belong_together(errors: np.ndarray | None, classes: tuple[str, ...], told: str):
    with pytest.raises(ConfigError, match=told):
        Reference(*stream(10, 0), errors, classes)
