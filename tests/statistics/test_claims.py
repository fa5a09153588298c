"""What the sentences of a comparison claim, at the rate that they claim it: simulations with known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri, stdtr, stdtrit
from scipy.stats import multivariate_normal
from simulated_comparisons import LITTLE, MUCH, SOME, crossed, grouped_differences, probit, rare_losses

from attngraft.statistics.effects import crossed_effect
from attngraft.statistics.groups import by_group
from attngraft.statistics.looks import Looks, conditional_power
from attngraft.statistics.margins import margin_verdict
from attngraft.statistics.meta_analysis import pooled_effect
from attngraft.statistics.power import (
    averaged_factor,
    images_needed,
    inflation,
    planning_noise,
    seeds_needed,
    smallest_detectable,
)

LEFT = 0.2  # what is left to 100 %: claims above it are not made


def power_of_claims(seeds: int, images: int, noise: float, experiments: int, sized: int) -> float:
    """Chance that an effect of the claimed size is found, over claims and over new comparisons of the same kind.

    A comparison that says that it can see no effect at all has made a claim that holds.
    """
    rng = np.random.default_rng([1, seeds, images, int(1000 * noise)])
    matrices = [probit(rng, 20, seeds, images, noise)[0] for _ in range(experiments // 20)]
    mean, error, df = (np.concatenate(part) for part in zip(*map(crossed, matrices), strict=True))
    effects = [crossed_effect(matrix) for matrix in np.concatenate(matrices[: -(-sized // 20)])[:sized]]
    sizes = np.array([smallest_detectable(effect, limit=LEFT).size for effect in effects])
    found = np.abs(mean[None] + sizes[:, None]) / error[None] > stdtrit(df, 0.975)[None]
    return float(np.where(sizes < LEFT, found.mean(1), 1.0).mean())


def test_the_factor_of_a_claim_has_the_known_values():
    for df, ratio in ((2.0, 1.55), (4.0, 1.24), (8.0, 1.11)):
        assert inflation(df, 0.95, 0.8) == pytest.approx(ratio, abs=0.01)
    assert averaged_factor(1e6, 0.95, 0.8) == pytest.approx(2.8016, abs=0.01)  # z(0.975) + z(0.8)


@pytest.mark.parametrize("cell", [(3, 150, SOME), (5, 150, MUCH), (10, 150, LITTLE)])
def test_a_claim_of_power_holds(cell):
    assert 0.72 <= power_of_claims(*cell, experiments=300, sized=100) <= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("noise", [LITTLE, SOME, MUCH])
@pytest.mark.parametrize("images", [150, 1000, 2500])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_claims_of_power_hold_in_the_grid(seeds, images, noise):
    found = power_of_claims(seeds, images, noise, experiments=1000, sized=1000)
    assert found >= 0.75  # 0.77 within three standard errors of the simulation
    if seeds > 3:
        assert found <= 0.92


def excluded_wrongly(seeds: int, images: int, share: float, experiments: int) -> float:
    """How often a loss that is there is excluded."""
    rng = np.random.default_rng([2, seeds, images, int(1000 * share)])
    matrices = rare_losses(rng, experiments, seeds, images, share)
    return float(np.mean([crossed_effect(matrix, limit=1.0).excludes_below(-share) for matrix in matrices]))


@pytest.mark.parametrize(("images", "share"), [(100, 0.02), (400, 0.01), (1000, 0.005)])
def test_a_rare_loss_is_not_excluded(images, share):
    assert excluded_wrongly(3, images, share, 300) <= 0.07 + 0.03


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.005, 0.01, 0.02])
@pytest.mark.parametrize("images", [100, 400, 1000, 2500])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 10])
def test_rare_losses_are_not_excluded_in_the_grid(seeds, images, share):
    assert excluded_wrongly(seeds, images, share, 1000) <= 0.07


def test_the_interval_itself_would_exclude_rare_losses():
    """Why exclusions have ends of their own."""
    rng = np.random.default_rng(5)
    matrices = rare_losses(rng, 300, 3, 1000, 0.005)
    assert np.mean([crossed_effect(matrix, limit=1.0).low > -0.005 for matrix in matrices]) > 0.09


def false_verdicts_in_groups(seeds: int, groups: int, size: int, experiments: int, *, grouped: bool) -> float:
    rng = np.random.default_rng([3, seeds, groups, size])
    matrices, group = grouped_differences(rng, experiments, seeds, groups, size)
    found = [crossed_effect(by_group(m, group) if grouped else m, limit=1.0).p_value <= 0.05 for m in matrices]
    return float(np.mean(found))


@pytest.mark.parametrize("size", [10, 30])
def test_groups_are_the_unit(size):
    assert false_verdicts_in_groups(3, 40, size, 200, grouped=True) <= 0.06 + 0.035
    assert false_verdicts_in_groups(5, 40, size, 200, grouped=False) > 0.12


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 30])
@pytest.mark.parametrize("groups", [15, 40, 100])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_false_verdicts_in_groups_are_rare_in_the_grid(seeds, groups, size):
    assert false_verdicts_in_groups(seeds, groups, size, 1000, grouped=True) <= 0.06 + 0.01


def test_scores_of_groups_are_worked_by_hand():
    # sums 1, 1, 1 and sizes 2, 1, 1: r = 3/4, mean size 4/3; (s - r n) / (4/3) = -3/8, 3/16, 3/16
    grouped = by_group([[1.0, 0.0, 1.0, 1.0]], ["a", "a", "b", "c"])
    assert grouped.tolist() == [[0.75 - 0.375, 0.75 + 0.1875, 0.75 + 0.1875]]
    assert grouped.mean() == 0.75


def crossings(looks: Looks, noise: float, experiments: int, shift: float = 0.0) -> tuple[float, float]:
    """Share of comparisons that are settled at some look, and how many seeds they took in the mean."""
    rng = np.random.default_rng([4, len(looks.seeds), int(1000 * noise), int(1000 * shift)])
    levels = looks.levels(0.05)
    settled, used = 0, 0
    for _ in range(experiments // 50):
        matrices, _ = probit(rng, 50, looks.seeds[-1], 150, noise, shift)
        open_, taken = np.ones(50, bool), np.full(50, looks.seeds[-1])
        for count, level in zip(looks.seeds, levels, strict=True):
            mean, error, df = crossed(matrices[:, :count])
            reached = open_ & (2 * stdtr(df, -np.abs(mean) / error) <= level)
            taken[reached] = count
            open_ &= ~reached
        settled, used = settled + int((~open_).sum()), used + int(taken.sum())
    return settled / experiments, used / experiments


@pytest.mark.parametrize("looks", [(5, 8, 12), (3, 5, 8, 12)])
def test_planned_looks_keep_the_rate_of_false_alarms(looks):
    assert crossings(Looks(looks), MUCH, 400)[0] <= 0.06 + 0.025


@pytest.mark.slow
@pytest.mark.parametrize("noise", [LITTLE, SOME, MUCH])
@pytest.mark.parametrize("looks", [(5, 8, 12), (3, 5, 8, 12), (2, 4, 6, 8, 10)])
def test_planned_looks_keep_the_rate_of_false_alarms_in_the_grid(looks, noise):
    assert crossings(Looks(looks), noise, 2000)[0] <= 0.06


def test_looks_save_seeds_where_there_is_an_effect():
    power, seeds = crossings(Looks((5, 8, 12)), SOME, 200, shift=0.5)
    assert power > 0.9
    assert seeds < 8


def test_the_levels_spend_what_they_should():
    looks = Looks((3, 5, 8, 12))
    assert looks.levels(0.05) == pytest.approx((0.0000886, 0.00236, 0.01546, 0.0437), rel=0.01)
    shares = np.array(looks.shares)
    bounds = -ndtri(np.array(looks.levels(0.05)) / 2)
    correlation = np.sqrt(np.minimum.outer(shares, shares) / np.maximum.outer(shares, shares))
    for count in range(1, 5):  # the chance to have crossed by each look, by another integration of the same path
        inside = multivariate_normal(cov=correlation[:count, :count]).cdf(bounds[:count], lower_limit=-bounds[:count])
        assert 1 - inside == pytest.approx(2 * ndtr(ndtri(0.025) / math.sqrt(shares[count - 1])), abs=2e-4)
    assert looks.hopeless(0.05) == (3,)
    assert Looks((5, 8, 12)).hopeless(0.05) == ()


def test_going_on_is_futile_where_nothing_near_the_margin_can_come():
    rng = np.random.default_rng(0)
    quiet = crossed_effect(rng.choice([-1.0, 0.0, 1.0], p=[0.02, 0.96, 0.02], size=(5, 4000)))
    looks = Looks((5, 8, 12))
    assert conditional_power(quiet, looks, 0.05, margin=0.0001) < 0.1
    assert conditional_power(quiet, looks, 0.05, margin=0.05) > 0.9


def test_a_margin_is_kept_at_the_rate_of_its_tests():
    rng = np.random.default_rng(6)
    matrices, truth = probit(rng, 300, 5, 600, SOME, shift=-0.2)
    kinds = [margin_verdict(crossed_effect(m, confidence=0.9), -truth).kind for m in matrices]
    assert np.mean([kind in ("as good as", "no worse") for kind in kinds]) <= 0.05 + 0.03
    easy = [margin_verdict(crossed_effect(m, confidence=0.9), 0.5).kind for m in matrices[:20]]
    assert set(easy) == {"as good as"}
    tight = [margin_verdict(crossed_effect(m, confidence=0.9), 0.001).kind for m in matrices[:50]]
    assert "worse" in tight


def test_a_lower_error_is_no_loss():
    effect = crossed_effect(np.random.default_rng(0).normal(-1.0, 0.1, (3, 200)), confidence=0.9, limit=math.inf)
    assert margin_verdict(effect, 0.5, higher_is_better=False).kind == "no worse"
    assert margin_verdict(effect, 0.5).kind == "worse"


def test_a_plan_finds_what_it_is_made_for():
    rng = np.random.default_rng(7)
    pilots = probit(rng, 60, 3, 600, SOME)[0]
    enough = [seeds_needed(planning_noise([crossed_effect(m)]), 600, 0.06, confidence=0.95) for m in pilots]
    seeds = [count for count in enough if count is not None]
    assert len(seeds) > 40
    truth = {count: _power_at(count, 0.06) for count in set(seeds) if count <= 30}
    assert np.mean([truth[count] >= 0.8 for count in seeds if count in truth]) >= 0.7  # an upper 80 % bound


def _power_at(seeds: int, effect: float) -> float:
    mean, error, df = crossed(probit(np.random.default_rng(8), 100, seeds, 600, SOME)[0])
    return float((np.abs(mean + effect) / error > stdtrit(df, 0.975)).mean())


def test_where_the_seeds_agree_the_plan_still_counts_on_their_noise():
    lucky = crossed_effect(np.tile(np.random.default_rng(1).choice([-1.0, 0, 1], 300, p=[0.1, 0.8, 0.1]), (3, 1)))
    assert lucky.seed_variance == 0
    noisy = crossed_effect(np.random.default_rng(1).choice([-1.0, 0, 1], (3, 300), p=[0.1, 0.8, 0.1]))
    assert noisy.seed_variance < planning_noise([noisy]).seed


def test_images_or_seeds_are_the_limit():
    noise = planning_noise([crossed_effect(probit(np.random.default_rng(2), 1, 5, 200, LITTLE)[0][0])])
    assert seeds_needed(noise, 200, 0.001, confidence=0.95) is None
    assert (
        images_needed(noise, 10, 0.02, confidence=0.95) is None or images_needed(noise, 10, 0.02, confidence=0.95) > 200
    )
    more = images_needed(noise, 10, 0.05, confidence=0.95)
    assert more is not None
    assert noise.detectable(10, more, confidence=0.95) <= 0.05 < noise.detectable(10, more - 1, confidence=0.95)


def coverage_of_pooled(sets: int, between: float, experiments: int) -> float:
    rng = np.random.default_rng([9, sets, int(1000 * between)])
    hits = 0
    for _ in range(experiments):
        errors = rng.uniform(0.5, 2.0, sets)
        effects = 1.0 + between * rng.standard_normal(sets) + errors * rng.standard_normal(sets)
        noisy = errors * np.sqrt(rng.chisquare(8, sets) / 8)  # standard errors are estimated too
        pooled = pooled_effect(effects.tolist(), noisy.tolist())
        hits += pooled.low <= 1.0 <= pooled.high
    return hits / experiments


@pytest.mark.parametrize("sets", [3, 5, 8])
def test_the_mean_over_data_sets_is_covered(sets):
    assert coverage_of_pooled(sets, 1.0, 300) >= 0.93 - 0.03


@pytest.mark.slow
@pytest.mark.parametrize("between", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("sets", [3, 5, 8])
def test_the_mean_over_data_sets_is_covered_in_the_grid(sets, between):
    assert coverage_of_pooled(sets, between, 3000) >= 0.93
