"""Grafts whose rate and strength follow the trend of the loss."""

from __future__ import annotations

import copy
import math
import os
import signal
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import training_helpers
from cases import few_of, slow
from hypothesis import given
from hypothesis import strategies as st
from sealed import rewrite
from torch import nn
from training_helpers import (
    AtStep,
    assert_same_run,
    assert_same_weights,
    coloured_squares,
    droppy_model,
    short_recipe,
    small_model,
)

from attngraft.data import Dataset
from attngraft.errors import ConfigError
from attngraft.surgery import graft, grafts
from attngraft.training import FitResult, Phase, Recipe, load_recipe
from attngraft.training.checkpoint import read_newest
from attngraft.training.dynamic_attention import (
    CLEAR,
    RATES,
    STRENGTHS,
    WINDOW,
    Pace,
    logit_parameters,
    possible,
    trend,
)

KINDS = ("rate", "strength", "both")
FALLING, RISING, STALLED = (3.0, 2.0, 1.0), (1.0, 2.0, 3.0), (1.0, 1.2, 1.0)
# at this rate the loss of these data jumps about, so that all kinds of trends occur
RESTLESS = Recipe(
    "restless",
    (
        Phase("few", train=("head", "grafts"), epochs=4, lr=3.0, schedule="constant"),
        Phase("all", epochs=5, lr=0.3, schedule="constant"),
    ),
    batch_size=16,
    dynamic="both",
    ema_decay=0.6,
)


def run_fit(model: nn.Module, data: Dataset, folder: Path, **options: Any) -> FitResult:
    return training_helpers.run_fit(model, data, folder, **{"curve": False, **options})


@cache
def template(attention: str) -> nn.Module:
    torch.manual_seed(0)
    return graft(droppy_model(), attention, where=["stem"], input_size=(3, 16, 16))


def grafted(attention: str = "se", *, awake: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = copy.deepcopy(template(attention))
    if awake:
        for part in grafts(model).values():
            for parameter in part.parameters():
                nn.init.normal_(parameter, std=0.3)
    return model


# --- the trend and the rule --------------------------------------------------------------------------------------


def test_the_trend_computed_by_hand():
    """Slope -1/2 and residuals 1/2, -1, 1/2: a standard error of sqrt(3/2 / 1 / 2)."""
    assert trend([3.0, 1.0, 2.0]) == pytest.approx(-0.5 / math.sqrt(0.75))


def test_two_epochs_have_no_trend():
    assert trend([2.0, 1.0]) is None
    assert Pace(losses=(2.0, 1.0)).adjusted("both") == Pace(losses=(2.0, 1.0))


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=6), st.floats(0.1, 10), st.floats(-10, 10))
def test_the_trend_does_not_depend_on_unit_and_origin_and_turns_with_the_sign(
    losses: list[float], scale: float, shift: float
):
    found = trend(losses)
    assert found is not None
    assert -100 <= found <= 100
    assert trend([-loss for loss in losses]) == pytest.approx(-found, rel=1e-6, abs=1e-9)
    if max(losses) - min(losses) > 1e-3:
        assert trend([scale * loss + shift for loss in losses]) == pytest.approx(found, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("losses", "rate", "strength"), [(FALLING, 1.1, 1.0), (STALLED, 0.5, 1.2), (RISING, 0.5, 1 / 1.2)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_trend_does(losses: tuple[float, ...], rate: float, strength: float, kind: Any):
    after = Pace(losses=losses).adjusted(kind)
    assert after.rate == pytest.approx(rate if kind != "strength" else 1.0)
    assert after.strength == pytest.approx(strength if kind != "rate" else 1.0)
    assert after.losses == (losses if losses == FALLING else ())  # after a change for the worse, wait


@given(st.lists(st.floats(0, 1e6) | st.sampled_from([math.nan, math.inf]), max_size=60), st.sampled_from(KINDS))
def test_the_pace_stays_within_its_bounds_whatever_the_losses(losses: list[float], kind: Any):
    pace = Pace()
    for loss in losses:
        pace = pace.seen(loss).adjusted(kind)
        assert RATES[0] <= pace.rate <= RATES[1]
        assert STRENGTHS[0] <= pace.strength <= STRENGTHS[1]
        assert len(pace.losses) <= WINDOW


def test_a_phase_begins_with_a_rate_of_its_own_and_the_strength_so_far():
    assert Pace(0.5, 1.44, STALLED).in_next_phase() == Pace(1.0, 1.44, ())


def test_a_noisy_but_level_loss_is_mostly_no_trend():
    generator = torch.Generator().manual_seed(0)
    found = [trend(row.tolist()) for row in torch.randn(2000, 4, generator=generator)]
    assert sum(abs(value or 0.0) >= CLEAR for value in found) / len(found) < 0.25  # 18 % by Student's distribution


# --- in training -------------------------------------------------------------------------------------------------


def replayed(rows: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """The paces that the rule makes of the losses in the rows."""
    pace, found, phase = Pace(), [], ""
    for row in rows:
        if phase and row["phase"] != phase:
            pace = pace.in_next_phase()
        phase = row["phase"]
        pace = pace.seen(row["eval_loss"] if row.get("eval_split") == "val" else row["train_loss"])
        found.append(pace.to_row())
        last = row["epoch"] in (recipe.phases[0].epochs, recipe.epochs)
        pace = pace if last else pace.adjusted(recipe.dynamic)
    return found


@pytest.mark.parametrize(
    ("kind", "val"), few_of(product(KINDS, (0, 12)), [("rate", 0), ("strength", 12), ("both", 12)])
)
def test_rows_say_what_the_rule_makes_of_the_losses(tmp_path: Path, kind: Any, val: int):
    """Of the validation images where there are some, of the training images otherwise."""
    recipe = replace(RESTLESS, dynamic=kind)
    result = run_fit(grafted(), coloured_squares(val=val), tmp_path / "run", recipe=recipe)
    paces = [row["dynamic"] for row in result.history]
    assert paces == replayed(result.history, recipe)
    assert ({row["rate"] for row in paces} == {1.0}) == (kind == "strength")
    assert ({row["strength"] for row in paces} == {1.0}) == (kind == "rate")


def test_the_rate_of_grafts_is_what_the_row_says(tmp_path: Path, squares: Dataset):
    """Only grafts are trained, at a constant rate: it is the highest in force."""
    phase = Phase("grafts", train=("grafts",), epochs=8, lr=0.2, schedule="constant")
    recipe = Recipe("r", (phase,), batch_size=16, dynamic="rate")
    result = run_fit(grafted(), squares, tmp_path / "run", recipe=recipe)
    assert [row["lr"] for row in result.history] == [pytest.approx(0.2 * r["dynamic"]["rate"]) for r in result.history]
    assert len({row["lr"] for row in result.history}) > 1


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_strength_is_in_the_weights_and_in_their_average(tmp_path: Path, squares: Dataset, ema_decay: float):
    """With next to no learning, all that moves the last layers is the strength."""
    model = grafted("cbam", awake=True)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    phase = Phase("p", train=("grafts",), epochs=8, lr=1e-12, schedule="constant")
    recipe = Recipe("r", (phase,), optimizer="sgd", batch_size=16, dynamic="strength", ema_decay=ema_decay)
    result = run_fit(model, squares, tmp_path / "run", recipe=recipe)
    strength = result.history[-1]["dynamic"]["strength"]
    assert strength != 1.0
    for path, part in grafts(result.model).items():
        scaled = {id(parameter) for parameter in logit_parameters(part, "cbam", {})[0]}
        for name, parameter in part.named_parameters():
            factor = strength if id(parameter) in scaled else 1.0
            torch.testing.assert_close(parameter.detach(), factor * before[f"{path}.graft.{name}"])


@pytest.mark.parametrize("epochs", [3, 4, slow(7)])
def test_the_model_that_is_kept_is_the_one_that_was_measured(tmp_path: Path, squares: Dataset, epochs: int):
    """No change after the last epoch, nor after one at which somebody says stop."""
    recipe = load_recipe(replace(RESTLESS, phases=(replace(RESTLESS.phases[0], epochs=9),)))
    stopped = run_fit(
        grafted(), squares, tmp_path / "stopped", recipe=recipe, curve=True, on_epoch=lambda rows: len(rows) == epochs
    )
    ended = run_fit(grafted(), squares, tmp_path / "ended", recipe=load_recipe(recipe, epochs=epochs), curve=True)
    for result in (stopped, ended):
        assert len(result.history) == epochs
        assert result.evaluation.loss == pytest.approx(result.history[-1]["eval_loss"], rel=1e-9)
    assert_same_weights(stopped.model, ended.model)


def test_the_best_weights_come_with_their_strength(tmp_path: Path):
    recipe = replace(RESTLESS, select="best", phases=(replace(RESTLESS.phases[0], epochs=7, lr=5.0),))
    result = run_fit(grafted(), coloured_squares(val=12), tmp_path / "run", recipe=recipe, seed=2)
    best = min(result.history, key=lambda row: row["eval_loss"])
    assert best["epoch"] < recipe.epochs
    again = run_fit(
        grafted(),
        coloured_squares(val=12),
        tmp_path / "again",
        recipe=replace(recipe, select="last"),
        seed=2,
        on_epoch=lambda rows: len(rows) == best["epoch"],
    )
    assert_same_weights(result.model, again.model)


def test_frozen_grafts_stay_in_every_bit(tmp_path: Path, squares: Dataset):
    model = grafted(awake=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = Recipe("r", (Phase("head", train=("head",), epochs=6, lr=0.3),), batch_size=16, dynamic="both")
    result = run_fit(model, squares, tmp_path / "run", recipe=recipe)
    assert all("dynamic" not in row for row in result.history)
    assert all(torch.equal(t, before[name]) for name, t in result.model.state_dict().items() if ".graft." in name)


def test_without_grafts_nothing_changes(tmp_path: Path, squares: Dataset):
    """The plain backbone of a comparison has the same recipe as its variants."""
    plain = run_fit(droppy_model(), squares, tmp_path / "off", recipe=replace(RESTLESS, dynamic="off"))
    paced = run_fit(droppy_model(), squares, tmp_path / "both", recipe=RESTLESS)
    assert_same_run(plain, paced)


def test_controls_have_a_rate_but_no_strength(tmp_path: Path, squares: Dataset):
    assert possible("both", grafted("static")) == "rate"
    assert possible("strength", grafted("static")) == "off"
    assert [possible(kind, grafted("cbam")) for kind in KINDS] == list(KINDS)
    assert possible("both", small_model()) == "off"
    result = run_fit(grafted("static"), squares, tmp_path / "run", recipe=RESTLESS)
    assert {row["dynamic"]["strength"] for row in result.history} == {1.0}


def test_weights_do_not_depend_on_the_test_images_nor_on_the_curve(tmp_path: Path):
    with_val = coloured_squares(val=12)
    other = replace(with_val, test=with_val.test.select(range(9)))
    first = run_fit(grafted(), with_val, tmp_path / "first", recipe=RESTLESS, curve=True)
    second = run_fit(grafted(), other, tmp_path / "second", recipe=RESTLESS)
    assert_same_weights(first.model, second.model)
    assert [row["dynamic"] for row in first.history] == [row["dynamic"] for row in second.history]
    plain = coloured_squares()
    third = run_fit(grafted(), plain, tmp_path / "third", recipe=RESTLESS, curve=True)
    fourth = run_fit(grafted(), replace(plain, test=plain.test.select(range(9))), tmp_path / "fourth", recipe=RESTLESS)
    assert_same_weights(third.model, fourth.model)


# --- resume ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    result = run_fit(grafted(), coloured_squares(val=12), tmp_path_factory.mktemp("whole") / "run", recipe=RESTLESS)
    paces = [(row["dynamic"]["rate"], row["dynamic"]["strength"]) for row in result.history]
    assert len(set(paces)) >= 4  # there is something to be lost
    return result


@pytest.mark.parametrize("step", [slow(9), 13, slow(21), 25])
def test_stopped_politely_and_resumed_with_the_same_bits(tmp_path: Path, whole: Any, step: int):
    def fit_it(**options: Any) -> Any:
        return run_fit(grafted(), coloured_squares(val=12), tmp_path / "run", recipe=RESTLESS, **options)

    with pytest.raises(KeyboardInterrupt):
        fit_it(progress=AtStep(step, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert_same_run(fit_it(), whole)


def test_died_with_a_checkpoint_at_every_step(tmp_path: Path, whole: Any):
    class SuddenDeathError(BaseException):
        pass

    def die() -> None:
        raise SuddenDeathError

    options: dict[str, Any] = {"recipe": RESTLESS, "checkpoint_minutes": 0.0}
    for step in (10, 21, 25):
        with pytest.raises(SuddenDeathError):
            run_fit(grafted(), coloured_squares(val=12), tmp_path / "run", progress=AtStep(step, die), **options)
    assert_same_run(run_fit(grafted(), coloured_squares(val=12), tmp_path / "run", **options), whole)


def test_an_error_of_who_looks_on_loses_nothing(tmp_path: Path, whole: Any):
    """The change after the epoch is in the checkpoint that is written before the error is raised."""
    for epoch in (3, 7):

        def fails(rows: Any, epoch: int = epoch) -> bool:
            if len(rows) == epoch:
                raise LookupError
            return False

        with pytest.raises(LookupError):
            run_fit(grafted(), coloured_squares(val=12), tmp_path / "run", recipe=RESTLESS, on_epoch=fails)
    assert_same_run(run_fit(grafted(), coloured_squares(val=12), tmp_path / "run", recipe=RESTLESS), whole)


def test_a_run_from_before_there_was_a_pace_goes_on(tmp_path: Path, squares: Dataset):
    recipe = short_recipe(3)
    stop = AtStep(4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_fit(grafted(), squares, tmp_path / "run", recipe=recipe, progress=stop)
    rewrite(tmp_path / "run" / "run.json", lambda description: description["recipe"].pop("dynamic"))
    assert read_newest(tmp_path / "run" / "checkpoints") is not None
    resumed = run_fit(grafted(), squares, tmp_path / "run", recipe=recipe)
    assert_same_run(resumed, run_fit(grafted(), squares, tmp_path / "whole", recipe=recipe))


def test_tensorboard_shows_the_pace(tmp_path: Path, squares: Dataset):
    pytest.importorskip("tensorboard")
    run_fit(
        grafted(), squares, tmp_path / "run", recipe=replace(RESTLESS, phases=RESTLESS.phases[1:]), tensorboard=True
    )
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"dynamic/strength" in file.read_bytes()


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'both'"):
        load_recipe("one-cycle", dynamic="bth")
