"""Shapley values and interactions: hand-computed games, and the axioms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.statistics.shapley import (
    coalitions_of,
    everyone,
    exact_values,
    interaction,
    is_exhaustive,
    sampled_orders,
    sampling_error,
    values_along,
)

games = st.integers(1, 4).flatmap(
    lambda players: st.lists(
        st.lists(st.integers(-5, 5), min_size=2, max_size=2), min_size=2**players, max_size=2**players
    ).map(lambda rows: (players, {who: np.array(row, dtype=float) for who, row in enumerate(rows)}))
)


def game(players: int, value) -> dict[int, np.ndarray]:
    """The worth of each coalition, on one image, from a function of its members."""
    members = [frozenset(i for i in range(players) if who >> i & 1) for who in range(2**players)]
    return {who: np.array([float(value(coalition))]) for who, coalition in enumerate(members)}


def test_the_glove_game_is_divided_as_shapley_did():
    """One left glove (player 0) and two right ones: a pair is worth 1; the values are 2/3, 1/6 and 1/6."""
    worth = game(3, lambda who: 0 in who and bool({1, 2} & who))
    assert exact_values(worth, 3)[:, 0] == pytest.approx([2 / 3, 1 / 6, 1 / 6])


@given(games)
def test_values_add_up_to_the_whole_image_by_image(drawn):
    players, worth = drawn
    total = worth[everyone(players)] - worth[0]
    assert exact_values(worth, players).sum(0) == pytest.approx(total)
    orders = sampled_orders(players, 4, seed=0)
    assert values_along(worth, orders).sum(0) == pytest.approx(np.tile(total, (len(orders), 1)))


@given(games)
def test_who_adds_nothing_gets_nothing_and_who_adds_the_same_gets_the_same(drawn):
    players, worth = drawn
    idle = {who: worth[who & everyone(players)] for who in range(2 ** (players + 1))}
    values = exact_values(idle, players + 1)
    assert values[-1] == pytest.approx(np.zeros(2))
    assert values[:-1] == pytest.approx(exact_values(worth, players))
    alike = game(players, len)
    assert np.ptp(exact_values(alike, players)) == pytest.approx(0)


@given(games)
def test_all_orders_together_give_the_exact_values(drawn):
    players, worth = drawn
    orders = sampled_orders(players, 24, seed=0)
    assert is_exhaustive(players, 24)
    assert values_along(worth, orders).mean(1) == pytest.approx(exact_values(worth, players))


@given(st.integers(4, 9), st.integers(1, 5), st.integers(0, 9))
def test_sampled_orders_are_pairs_of_an_order_and_its_reverse(players, pairs, seed):
    drawn = sampled_orders(players, 2 * pairs, seed)
    assert len(drawn) == pairs
    assert all(sorted(order) == list(range(players)) and back == order[::-1] for order, back in drawn)
    assert drawn == sampled_orders(players, 2 * pairs, seed)


@pytest.mark.parametrize(("players", "number"), [(1, 1), (2, 1), (3, 3)])
def test_where_all_orders_are_few_all_are_taken(players, number):
    pairs = sampled_orders(players, 8, seed=0)
    assert len(pairs) == number
    assert len({order for pair in pairs for order in pair}) == [1, 2, 6][players - 1]


def test_sampling_does_not_miss_on_average():
    rng = np.random.default_rng(0)
    worth = {who: rng.normal(size=3) for who in range(32)}
    exact = exact_values(worth, 5)
    estimates = np.stack([values_along(worth, sampled_orders(5, 8, seed)).mean(1) for seed in range(300)])
    error = estimates.std(0) / np.sqrt(len(estimates))
    assert (np.abs(estimates.mean(0) - exact) < 4.5 * error).all()


def test_an_order_and_its_reverse_cancel_what_pairs_of_players_add():
    """With interactions of pairs alone, one antithetic pair is exact: each partner comes first in one of the two."""
    strength = np.array([[0, 3, -1, 2], [0, 0, 4, 1], [0, 0, 0, -2], [0, 0, 0, 0]])
    worth = game(4, lambda who: sum(strength[i, j] for i in who for j in who))
    (pair,) = sampled_orders(4, 2, seed=3)
    assert values_along(worth, [pair])[:, 0] == pytest.approx(exact_values(worth, 4))
    assert sampling_error(values_along(worth, sampled_orders(4, 6, seed=0))[0]) == pytest.approx(0, abs=1e-12)


def test_the_sampling_error_is_that_of_a_mean_over_pairs():
    values = np.array([[1.0, 3.0], [2.0, 4.0], [6.0, 8.0]])  # means over images 2, 3 and 7: variance 7
    assert sampling_error(values) == pytest.approx(np.sqrt(7 / 3))
    assert sampling_error(values[:1]) is None


def test_interactions_tell_partners_from_substitutes():
    both = game(3, lambda who: {0, 1} <= who)
    either = game(3, lambda who: bool({0, 1} & who))
    apart = game(3, lambda who: 2 * (0 in who) + 3 * (1 in who))
    assert [float(interaction(worth, 3, 0, 1)[0]) for worth in (both, either, apart)] == [1, -1, 0]
    assert interaction(both, 3, 0, 1) == interaction(both, 3, 1, 0)


def test_only_the_coalitions_on_the_way_are_needed():
    assert coalitions_of([(0, 2, 1)]) == {0b000, 0b001, 0b101, 0b111}
