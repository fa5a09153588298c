"""Paired tests: hand-computed cases, all outcomes of small samples, and powers that hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import betainc, gammaln, xlogy
from scipy.stats import binom

from attngraft.errors import ConfigError
from attngraft.statistics.exact_power import (
    images_needed,
    images_needed_superiority,
    power_noninferiority,
    power_superiority,
)
from attngraft.statistics.exact_tests import (
    STEP,
    cells_of_interval,
    is_noninferior,
    noninferiority_p,
    score,
    superiority_p,
)


def lattice(images):
    """All outcomes: gains and losses (n+1, n+1), which are possible, and their multinomial coefficients' logarithms."""
    gained, lost = np.meshgrid(np.arange(images + 1), np.arange(images + 1), indexing="ij")
    possible = gained + lost <= images
    lost = np.where(possible, lost, 0)
    gained = np.where(possible, gained, 0)
    ties = images - gained - lost
    ways = gammaln(images + 1) - gammaln(gained + 1) - gammaln(lost + 1) - gammaln(ties + 1)
    return gained, lost, possible, np.where(possible, ways, -np.inf)


def probabilities(images, gain, loss):
    gained, lost, _, ways = lattice(images)
    ties = max(1 - gain - loss, 0.0)
    return np.exp(ways + xlogy(gained, gain) + xlogy(lost, loss) + xlogy(images - gained - lost, ties))


def limits(discordant, images, gamma):
    """Clopper-Pearson by bisection of the definition."""

    def root(tail_of):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if tail_of(middle) < gamma / 2 else (low, middle)
        return low

    lower = root(lambda psi: betainc(discordant, images - discordant + 1, psi)) if discordant else 0.0
    upper = root(lambda psi: betainc(images - discordant, discordant + 1, psi)) if discordant < images else 0.0
    return lower, 1 - upper


def p_by_enumeration(gained, lost, images, delta, gamma):
    """The definition: all outcomes at least as extreme, maximised over a fine grid of the confidence interval."""
    all_gained, all_lost, possible, _ = lattice(images)
    values = np.where(possible, score(all_gained, all_lost, images, delta), -np.inf)
    extreme = values >= score(np.array(gained), np.array(lost), images, delta) - 1e-10
    low, high = limits(gained + lost, images, gamma)
    rates = np.linspace(max(low, delta), high, 400) if high >= delta else []
    sums = [probabilities(images, (psi - delta) / 2, (psi + delta) / 2)[extreme].sum() for psi in rates]
    return max(sums, default=0.0) + gamma


def test_superiority_is_the_binomial_tail_of_a_fair_coin():
    assert superiority_p(8, 2) == pytest.approx((45 + 10 + 1) / 1024)
    assert superiority_p(40, 0) == pytest.approx(2.0**-40)
    assert superiority_p(0, 5) == 1.0
    assert superiority_p(0, 0) == 1.0


def test_the_score_of_few_disagreements_is_as_computed_by_hand():
    # no disagreement: the fitting rate of gains is 0, of losses delta, and n delta / sqrt(n delta (1 - delta)) remains
    assert float(score(np.array(0), np.array(0), 100, 0.1)) == pytest.approx(10 / math.sqrt(9))
    # 5 gains, 3 losses of 50 at delta 0.1: 100 q^2 + 2.2 q - 0.45 = 0
    rate = (-2.2 + math.sqrt(2.2**2 + 4 * 100 * 0.45)) / 200
    assert float(score(np.array(5), np.array(3), 50, 0.1)) == pytest.approx(7 / math.sqrt(50 * (2 * rate + 0.09)))


@pytest.mark.parametrize("delta", [0.01, 0.1, 0.4])
def test_the_score_grows_with_gains_and_falls_with_losses(delta):
    gained, lost, possible, _ = lattice(40)
    values = np.where(possible, score(gained, lost, 40, delta), np.nan)
    more_gains, more_losses = np.diff(values, axis=0), np.diff(values, axis=1)
    assert (more_gains[~np.isnan(more_gains)] > 0).all()
    assert (more_losses[~np.isnan(more_losses)] < 0).all()


@pytest.mark.parametrize(
    ("gained", "lost", "images", "delta"),
    [(0, 0, 30, 0.1), (2, 1, 30, 0.1), (5, 1, 25, 0.05), (5, 6, 25, 0.05), (12, 13, 25, 0.3), (1, 9, 40, 0.2)],
)
@pytest.mark.parametrize("gamma", [1e-3, 1e-10])
def test_the_p_value_is_that_of_its_definition(gained, lost, images, delta, gamma):
    """Never below the maximum over all nuisances, and at most 1.5 % above."""
    defined = p_by_enumeration(gained, lost, images, delta, gamma)
    found = noninferiority_p(gained, lost, images, delta, gamma=gamma)
    assert min(1.0, defined * (1 - 1e-6)) <= found <= min(1.0, 1.015 * defined + gamma)


def test_far_tails_are_exact():
    defined = p_by_enumeration(0, 0, 200, 0.1, 1e-20)
    assert defined < 1e-6
    assert defined * (1 - 1e-6) <= noninferiority_p(0, 0, 200, 0.1, gamma=1e-20) <= 1.1 * defined
    assert superiority_p(200, 20) == pytest.approx(float(binom.sf(199, 220, 0.5)))
    assert superiority_p(200, 20) < 1e-36


def test_without_disagreement_a_small_gamma_is_the_whole_p_value():
    """So few can disagree that no point with a loss of delta is left."""
    assert noninferiority_p(0, 0, 20_000, 0.02, gamma=1e-9) == 1e-9


def test_twenty_thousand_images_are_no_obstacle():
    assert 1e-7 < noninferiority_p(3000, 3000, 20_000, 0.02, gamma=1e-12) < 2e-7  # a score of 5.16
    assert noninferiority_p(2800, 3200, 20_000, 0.02) > 0.4  # at the margin


def test_no_images_show_nothing():
    assert noninferiority_p(0, 0, 0, 0.1) == 1.0
    assert not is_noninferior(0, 0, 0, 0.1, 0.05)


@pytest.mark.parametrize(("images", "delta"), [(12, 0.3), (30, 0.1), (40, 0.06)])
@pytest.mark.parametrize("alpha", [0.05, 0.002])
def test_the_size_is_at_most_alpha_at_every_point_of_the_hypothesis(images, delta, alpha):
    """Exact sums, on the edge and inside of H0."""
    gained, lost, possible, _ = lattice(images)
    accepted = np.zeros(gained.shape, dtype=bool)
    for b, c in zip(gained[possible], lost[possible], strict=True):
        accepted[b, c] = is_noninferior(int(b), int(c), images, delta, alpha)
    assert accepted.any()
    sizes = [
        probabilities(images, (psi - beyond) / 2, (psi + beyond) / 2)[accepted].sum()
        for beyond in (delta, 1.3 * delta)
        for psi in np.linspace(beyond, 1.0, 150)
    ]
    assert max(sizes) <= alpha
    assert max(sizes) > 0.2 * alpha, "nor is it needlessly small"


def test_cells_cover_the_whole_interval():
    first, last = cells_of_interval(np.arange(0, 61), 60, 0.1, 1e-4)
    step = STEP / math.sqrt(60)
    for discordant in range(61):
        low, high = limits(discordant, 60, 1e-4)
        if high < 0.1:
            assert last[discordant] < first[discordant]
            continue
        covered = [
            0.1 + 0.9 * math.sin(min(end * step, math.pi / 2)) ** 2 for end in (first[discordant], last[discordant] + 1)
        ]
        assert covered[0] <= max(low, 0.1) + 1e-9
        assert covered[1] >= high - 1e-9


def test_power_is_the_probability_of_all_accepted_outcomes():
    for images, psi, delta, alpha, difference in ((60, 0.02, 0.1, 0.03, 0.0), (80, 0.15, 0.15, 0.02, -0.02)):
        gained, lost, possible, _ = lattice(images)
        chance = probabilities(images, (psi + difference) / 2, (psi - difference) / 2)
        likely = possible & (chance > 1e-7)
        accepted = [
            is_noninferior(int(b), int(c), images, delta, alpha)
            for b, c in zip(gained[likely], lost[likely], strict=True)
        ]
        assert power_noninferiority(images, psi, delta, alpha, difference) == pytest.approx(
            chance[likely][accepted].sum(), rel=0.01
        )


def test_power_of_superiority_is_the_probability_of_all_accepted_outcomes():
    gained, lost, possible, _ = lattice(50)
    accepted = np.array(
        [superiority_p(int(b), int(c)) <= 0.02 for b, c in zip(gained[possible], lost[possible], strict=True)]
    )
    expected = probabilities(50, 0.2, 0.05)[possible][accepted].sum()
    assert power_superiority(50, 0.25, 0.02, 0.15) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("psi", "delta", "alpha", "difference"), [(0.08, 0.02, 0.03, 0.0), (0.02, 0.1, 1e-5, 0.0), (0.1, 0.05, 0.01, -0.01)]
)
def test_the_number_of_images_that_is_stated_has_the_power(psi, delta, alpha, difference):
    images = images_needed(psi, delta, alpha, 0.8, difference)
    assert power_noninferiority(images, psi, delta, alpha, difference) >= 0.8
    assert power_noninferiority(int(0.9 * images), psi, delta, alpha, difference) < 0.8


def test_the_number_of_images_that_is_stated_has_the_power_in_a_simulation():
    images = images_needed(0.05, 0.06, 0.02, 0.8)
    drawn = np.random.default_rng(1).multinomial(images, [0.025, 0.025, 0.95], size=2000)
    outcomes, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    passed = [is_noninferior(int(b), int(c), images, 0.06, 0.02) for b, c in outcomes]
    assert 0.8 - 3 * 0.009 <= times[passed].sum() / 2000 <= 0.86


def test_the_number_of_images_for_superiority_has_the_power():
    images = images_needed_superiority(0.12, 0.03, 0.8, 0.05)
    assert power_superiority(images, 0.12, 0.03, 0.05) >= 0.8
    assert power_superiority(int(0.9 * images), 0.12, 0.03, 0.05) < 0.8


def test_beyond_the_exact_sums_the_approximation_goes_on_where_they_end():
    exact, beyond = power_noninferiority(20_000, 0.3, 0.01, 0.01), power_noninferiority(20_001, 0.3, 0.01, 0.01)
    assert beyond == pytest.approx(exact, abs=0.03)
    assert power_superiority(20_000, 0.3, 0.01, 0.01) == pytest.approx(
        power_superiority(20_001, 0.3, 0.01, 0.01), abs=0.03
    )


def test_what_no_number_of_images_shows_has_none():
    assert images_needed(0.1, 0.02, 0.05, 0.8, -0.02) is None
    assert images_needed(0.1, 0.02, 0.05, 0.8, -0.01999) is None
    assert images_needed_superiority(0.1, 0.05, 0.8, 0.0) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: superiority_p(-1, 2),
        lambda: noninferiority_p(3, 3, 5, 0.1),
        lambda: noninferiority_p(1, 1, 5, 0.0),
        lambda: noninferiority_p(1, 1, 5, 0.1, gamma=0.0),
        lambda: power_superiority(10, 0.1, 0.05, 0.2),
        lambda: images_needed(0.1, 0.02, 0.0, 0.8),
    ],
)
def test_impossible_numbers_are_refused(call):
    with pytest.raises(ConfigError, match="expected"):
        call()
