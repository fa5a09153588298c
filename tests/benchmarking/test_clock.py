"""Interleaving and the arithmetic of ratios; no test looks at how long anything took."""

from __future__ import annotations

import pytest
import torch

from attngraft.benchmarking.clock import Spread, Task, geometric_mean, paired_ratio, spread, time_interleaved

CPU = torch.device("cpu")


def recorded(log, *names):
    return {name: Task(lambda name=name: log.append(name), lambda name=name: log.append(f"{name}?")) for name in names}


def test_every_round_runs_every_task_once_after_its_preparation():
    log, rounds = [], []
    times = time_interleaved(
        recorded(log, "a", "b", "c"), repeats=4, warmup=1, device=CPU, on_round=lambda: rounds.append(len(log))
    )
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert rounds == [12, 18, 24, 30]
    for start in range(0, 30, 6):
        turn = log[start : start + 6]
        assert sorted(turn[1::2]) == ["a", "b", "c"]
        assert turn[::2] == [f"{name}?" for name in turn[1::2]]


def test_the_order_changes_from_round_to_round_and_is_the_same_in_every_run():
    first, second = [], []
    for log in (first, second):
        time_interleaved(recorded(log, "a", "b", "c"), repeats=6, warmup=0, device=CPU)
    assert first == second
    assert len({tuple(first[start : start + 6]) for start in range(0, 36, 6)}) > 1


def test_a_slow_spell_of_the_machine_does_not_move_paired_ratios():
    ours, theirs = [1.0, 1.0, 9.0, 9.0, 1.0], [3.0, 3.0, 27.0, 27.0, 3.0]
    assert paired_ratio(theirs, ours) == Spread(3.0, 3.0, 3.0, 5)
    assert paired_ratio(theirs, ours, factor=0.5).median == 1.5


def test_rounds_that_do_not_match_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1.0, 2.0], [1.0])


def test_quartiles_are_those_of_the_values():
    assert spread([10.0, 30.0, 20.0, 50.0, 40.0]) == Spread(30.0, 20.0, 40.0, 5)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.25, 1.75, 2)


def test_the_geometric_mean_of_a_ratio_and_its_reciprocal_is_one():
    assert geometric_mean([4.0, 0.25, 1.0]) == pytest.approx(1.0)
