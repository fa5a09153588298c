"""Shapley values, exact and sampled, and pairwise interactions.

The worth of a coalition is an array over images (N,), so that what follows has an interval over them. A coalition is a
number whose bit i says that player i is in it.

Sources: Shapley 1953; sampling by permutations and their reverses: Castro et al. 2009, Mitchell et al.,
arXiv:2104.12199; interactions as second-order differences: Grabisch and Roubens 1999.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

Worth = Mapping[int, NDArray[np.float64]]  # coalition -> (N,)
Order = tuple[int, ...]


def everyone(players: int) -> int:
    """The coalition of all."""
    return (1 << players) - 1


def exact_values(worth: Worth, players: int) -> NDArray[np.float64]:
    """(players, N) from the worth of every coalition; their sum is everyone's worth minus nobody's.

    >>> worth = {0b00: np.array([0.0]), 0b01: np.array([4.0]), 0b10: np.array([0.0]), 0b11: np.array([6.0])}
    >>> exact_values(worth, 2)[:, 0].tolist()
    [5.0, 1.0]
    """
    found = []
    for player in range(players):
        others = [other for other in range(players) if other != player]
        value = np.zeros_like(worth[0], dtype=np.float64)
        for size in range(players):
            weight = 1 / (players * math.comb(players - 1, size))
            for friends in combinations(others, size):
                value += weight * gain(worth, _coalition(friends), player)
        found.append(value)
    return np.stack(found)


def gain(worth: Worth, coalition: int, player: int) -> NDArray[np.float64]:
    """What a player adds to a coalition without it."""
    return np.subtract(worth[coalition | 1 << player], worth[coalition], dtype=np.float64)


def sampled_orders(players: int, count: int, seed: int) -> tuple[tuple[Order, Order], ...]:
    """Pairs of an order and its reverse: all there are where these are no more than `count`, else that many at random.

    Args:
        players: at least 1.
        count: orders in all, an even number.
        seed: of the sample.
    """
    if is_exhaustive(players, count):
        every = [order for order in permutations(range(players)) if order <= order[::-1]]
        return tuple((order, order[::-1]) for order in every)
    rng = np.random.default_rng(seed)
    drawn = [tuple(int(player) for player in rng.permutation(players)) for _ in range(count // 2)]
    return tuple((order, order[::-1]) for order in drawn)


def is_exhaustive(players: int, count: int) -> bool:
    """Whether so many orders are all that there are."""
    return math.factorial(players) <= count


def coalitions_of(orders: Iterable[Order]) -> set[int]:
    """The coalitions whose worth the values along these orders need."""
    return {_coalition(order[:size]) for order in orders for size in range(len(order) + 1)}


def values_along(worth: Worth, pairs: Sequence[tuple[Order, Order]]) -> NDArray[np.float64]:
    """(players, pairs, N): what each player adds when it comes, averaged over an order and its reverse.

    Its mean over the pairs estimates the Shapley values without bias, and the sum over the players is everyone's worth
    minus nobody's for each pair.
    """
    players = len(pairs[0][0])
    return np.stack([
        np.stack([(_along(worth, order, player) + _along(worth, back, player)) / 2 for order, back in pairs])
        for player in range(players)
    ])  # fmt: skip


def sampling_error(values: NDArray[np.float64]) -> float | None:
    """Standard error of a player's value (pairs, N) that comes from sampling orders alone; None from one pair."""
    if len(values) < 2:
        return None
    return float(values.mean(1).std(ddof=1) / math.sqrt(len(values)))


def interaction(worth: Worth, players: int, first: int, second: int) -> NDArray[np.float64]:
    """(N,), what two players add together beyond what each adds alone, all others being in.

    Positive where they need each other, negative where one can replace the other.
    """
    rest = everyone(players) & ~(1 << first) & ~(1 << second)
    return gain(worth, rest | 1 << second, first) - gain(worth, rest, first)


def _along(worth: Worth, order: Order, player: int) -> NDArray[np.float64]:
    return gain(worth, _coalition(order[: order.index(player)]), player)


def _coalition(players: Iterable[int]) -> int:
    return sum(1 << player for player in players)
