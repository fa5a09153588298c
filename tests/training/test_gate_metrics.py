"""What the gates do after each epoch is noted, and nothing else changes by that."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grafting_helpers import stir_grafts_
from ranks import in_two_processes
from torch import nn
from training_helpers import (
    PREPROCESSING,
    AtStep,
    assert_same_run,
    assert_same_weights,
    coloured_squares,
    droppy_model,
    image_set,
    metrics,
    run_fit,
    short_recipe,
)

import attngraft.training.validation as examiner
from attngraft.data import Dataset, ImageSet, build_transform
from attngraft.reporting import write_report
from attngraft.surgery import graft, grafts, watching
from attngraft.training import FitResult, Phase, Recipe, join_world
from attngraft.training.validation import record_gates

NUMBERS = {"mean", "spread", "distance", "dynamic"}
EMA = Recipe(
    "ema",
    (Phase("head", train=("head", "grafts"), epochs=1, lr=0.05), Phase("all", epochs=2, lr=0.05)),
    optimizer="adamw",
    batch_size=16,
    ema_decay=0.7,
)
SGD = short_recipe(epochs=2)


def grafted_model(attention: str = "cbam") -> nn.Module:
    return graft(droppy_model(), attention, where=["stem", "branch"], input_size=(3, 16, 16))


def stirred_model(attention: str = "cbam") -> nn.Module:
    return stir_grafts_(grafted_model(attention), 0.3)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return coloured_squares(val=12)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> FitResult:
    """A grafted model with an averaged copy, trained for 3 epochs in 2 phases."""
    return run_fit(grafted_model(), data, tmp_path_factory.mktemp("trained") / "run", recipe=EMA)


def inputs_of(images: ImageSet, positions: list[int]) -> torch.Tensor:
    transform = build_transform("none", PREPROCESSING, train=False)
    return torch.stack([transform(images.image(i)) for i in positions])


# --- what is recorded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "positions"), [(5, range(5)), (64, range(64)), (127, range(0, 127, 2))])
def test_the_numbers_are_those_of_some_images_evenly_spread(count: int, positions: range):
    model, images = stirred_model(), image_set("test", count, 3)
    found = record_gates(model, images, PREPROCESSING)
    seen: dict[str, Any] = {}
    with torch.no_grad(), watching(model.eval(), lambda path, x, gates: seen.update({path: gates})):
        model(inputs_of(images, list(positions)))
    assert found.keys() == grafts(model).keys()
    for path, parts in found.items():
        assert list(parts) == ["channel", "spatial"]
        for part, numbers in parts.items():
            gate = getattr(seen[path], part).double().flatten(1).numpy()
            between, fixed = gate.var(0).mean(), gate.mean(0).var()
            expected = {
                "mean": gate.mean(),
                "spread": gate.std(),
                "distance": np.abs(gate - 1).mean(),
                "dynamic": between / (between + fixed),
            }
            assert numbers.keys() == NUMBERS
            assert numbers == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("attention", ["bam", "capacity", "coord", "scse", "simam", "static", "triplet"])
def test_every_kind_of_part_is_recorded(attention: str):
    model = stirred_model(attention)
    found = record_gates(model, image_set("test", 6, 3), PREPROCESSING)
    for path, module in grafts(model).items():
        assert tuple(found[path]) == module.parts


def test_numbers_are_short(trained: FitResult):
    for row in trained.history:
        for parts in row["gates"].values():
            for numbers in parts.values():
                assert all(value == float(f"{value:.5g}") for value in numbers.values())


@pytest.mark.parametrize(("attention", "neutral"), [("cbam", 1), ("scse", 0.5), ("capacity", 0)])
def test_a_fresh_graft_has_neutral_gates(attention: str, neutral: float):
    for parts in record_gates(grafted_model(attention), image_set("test", 6, 3), PREPROCESSING).values():
        for numbers in parts.values():
            assert numbers == {"mean": neutral, "spread": 0, "distance": 0, "dynamic": 0}


def test_a_model_without_grafts_has_no_record():
    assert record_gates(droppy_model(), image_set("test", 6, 3), PREPROCESSING) == {}


def test_what_is_not_finite_becomes_none():
    model = grafted_model("static")
    with torch.no_grad():
        next(iter(grafts(model).values())).scale.fill_(float("inf"))
    found = record_gates(model, image_set("test", 6, 3), PREPROCESSING)
    json.dumps(found, allow_nan=False)
    assert [parts["channel"]["mean"] for parts in found.values()] == [None, 1]


def test_a_training_in_bf16_is_recorded_in_fp32(tmp_path: Path):
    """Near 1, where gates begin, bf16 has steps of 1/256: what is recorded would be rounding."""
    model = stirred_model()
    run_fit(model, coloured_squares(), tmp_path / "run", recipe=SGD, precision="bf16+channels_last")
    recorded = metrics(tmp_path / "run")[-1]["gates"]
    again = record_gates(model, coloured_squares().test, PREPROCESSING, memory_format=torch.channels_last)
    for path, parts in again.items():
        for part, numbers in parts.items():
            assert recorded[path][part] == pytest.approx(numbers, rel=1e-3, abs=1e-6)


# --- in the rows of metrics --------------------------------------------------------------------------------------


def test_every_epoch_of_a_grafted_model_has_a_record(trained: FitResult):
    rows = metrics(trained.run_dir)
    assert len(rows) == 3
    for row in rows:
        assert row["gates"].keys() == grafts(trained.model).keys()
    assert len({json.dumps(row["gates"]) for row in rows}) == 3  # the gates move
    assert [row["gates"] for row in trained.history] == [row["gates"] for row in rows]


def test_the_model_that_is_evaluated_is_recorded(trained: FitResult, data: Dataset):
    """The averaged one, on validation images."""
    assert data.val is not None
    assert trained.history[-1]["eval_split"] == "val"
    assert trained.history[-1]["gates"] == record_gates(trained.model, data.val, PREPROCESSING)


def test_without_validation_images_the_test_images_are_looked_at(tmp_path: Path, squares: Dataset):
    result = run_fit(grafted_model(), squares, tmp_path / "run", recipe=short_recipe(epochs=1))
    assert result.history[-1]["gates"] == record_gates(result.model, squares.test, PREPROCESSING)


def test_a_plain_model_has_no_record(tmp_path: Path, squares: Dataset):
    result = run_fit(droppy_model(), squares, tmp_path / "run", recipe=short_recipe(epochs=1))
    assert "gates" not in result.history[0]


@pytest.mark.parametrize("select", ["last", "best"])
def test_without_a_curve_there_is_no_record(tmp_path: Path, data: Dataset, select: str):
    recipe = replace(SGD, select=select, phases=(replace(SGD.phases[0], epochs=1),))
    result = run_fit(grafted_model(), data, tmp_path / "run", recipe=recipe, curve=False)
    assert "gates" not in result.history[0]
    assert ("eval_loss" in result.history[0]) == (select == "best")


# --- nothing else changes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [SGD, EMA], ids=["sgd", "ema"])
def test_weights_and_all_other_numbers_are_those_of_a_run_without_records(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
):
    with_record = run_fit(grafted_model(), data, tmp_path / "with", recipe=recipe)
    monkeypatch.setattr(examiner, "record_gates", lambda *args, **options: {})
    without = run_fit(grafted_model(), data, tmp_path / "without", recipe=recipe)
    assert_same_weights(with_record.model, without.model)
    assert np.array_equal(with_record.evaluation.probabilities, without.evaluation.probabilities)
    rows, others = metrics(with_record.run_dir), metrics(without.run_dir)
    assert all("gates" in row for row in rows)
    assert [{k: v for k, v in row.items() if k != "gates"} for row in rows] == others


def test_weights_do_not_depend_on_whether_a_curve_is_measured(tmp_path: Path, data: Dataset, trained: FitResult):
    plain = run_fit(grafted_model(), data, tmp_path / "run", recipe=EMA, curve=False)
    assert_same_weights(trained.model, plain.model)


def test_modes_statistics_hooks_and_random_numbers_stay(data: Dataset):
    model = grafted_model().train()
    model.stem.eval()
    torch.manual_seed(5)

    def footprint() -> list[Any]:
        modules = [(path, sorted(m.__dict__), m.training, len(m._forward_hooks)) for path, m in model.named_modules()]
        weights = [(name, tensor.tolist()) for name, tensor in model.state_dict().items()]
        flags = [(p.requires_grad, p.grad) for p in model.parameters()]
        return [modules, weights, flags, torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist()]

    before = footprint()
    record_gates(model, data.test, PREPROCESSING)
    assert footprint() == before


def test_a_failure_leaves_the_model_as_it_was(data: Dataset):
    model = grafted_model().train()
    keys = [sorted(attention.__dict__) for attention in grafts(model).values()]

    def stop(module: nn.Module, arguments: Any) -> None:
        raise KeyboardInterrupt

    handle = model.head.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        record_gates(model, data.test, PREPROCESSING)
    handle.remove()
    assert all(module.training for module in model.modules())
    assert [sorted(attention.__dict__) for attention in grafts(model).values()] == keys


@pytest.mark.parametrize("test_images", [24, 100])
def test_at_most_64_images_more_are_run_in_each_epoch(
    tmp_path: Path, test_images: int, monkeypatch: pytest.MonkeyPatch
):
    def images_run(folder: str) -> int:
        model, seen = grafted_model(), []
        model.stem.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
        run_fit(model, coloured_squares(test=test_images), tmp_path / folder, recipe=SGD)
        return sum(seen)

    with_record = images_run("with")
    monkeypatch.setattr(examiner, "record_gates", lambda *args, **options: {})
    assert with_record - images_run("without") == 2 * min(64, test_images)


# --- resumed, and together ---------------------------------------------------------------------------------------


def stop_at(step: int) -> AtStep:
    return AtStep(step, lambda: os.kill(os.getpid(), signal.SIGINT))


@pytest.mark.parametrize("step", [2, 6])
def test_a_resumed_run_has_the_same_rows(tmp_path: Path, data: Dataset, trained: FitResult, step: int):
    with pytest.raises(KeyboardInterrupt):
        run_fit(grafted_model(), data, tmp_path / "run", recipe=EMA, progress=stop_at(step))
    assert_same_run(run_fit(grafted_model(), data, tmp_path / "run", recipe=EMA), trained)


def test_a_finished_run_comes_back_with_its_records(data: Dataset, trained: FitResult):
    again = run_fit(grafted_model(), data, trained.run_dir, recipe=EMA)
    assert [row["gates"] for row in again.history] == [row["gates"] for row in trained.history]


@pytest.mark.slow
@pytest.mark.forks
def test_two_processes_record_the_same(tmp_path: Path):
    def work() -> None:
        world = join_world()
        result = run_fit(grafted_model(), coloured_squares(test=70), tmp_path / "run", recipe=short_recipe())
        (tmp_path / f"{world.rank}.json").write_text(json.dumps([row["gates"] for row in result.history]))

    in_two_processes(work)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == [row["gates"] for row in metrics(tmp_path / "run")]
    assert len(first) == 2


# --- readers of the rows -----------------------------------------------------------------------------------------


def test_the_board_shows_the_other_numbers(tmp_path: Path, squares: Dataset):
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    run_fit(grafted_model(), squares, folder, recipe=short_recipe(epochs=1), tensorboard=True)
    (file,) = (folder / "tensorboard").iterdir()
    assert b"eval_loss" in file.read_bytes()
    assert b"gates" not in file.read_bytes()


def test_a_report_of_the_run_is_made(trained: FitResult, tmp_path: Path):
    folder = shutil.copytree(trained.run_dir, tmp_path / "run")
    assert "Top-1 per epoch" in write_report(folder).read_text(encoding="utf-8")


def test_the_rows_are_readable_as_json_by_anyone(trained: FitResult):
    for line in (trained.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line, parse_constant=pytest.fail)["gates"]
