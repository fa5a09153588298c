"""Training from end to end: it learns, writes all there is to know, and refuses early what cannot work."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import slow
from torch import nn
from training_helpers import (
    CLASSES,
    PLAIN,
    PREPROCESSING,
    AtStep,
    assert_same_run,
    assert_same_weights,
    coloured_squares,
    contents,
    droppy_model,
    metrics,
    run_fit,
    short_recipe,
    small_model,
)

import attngraft
from attngraft.data import Dataset, build_transform
from attngraft.errors import BackboneError, ConfigError, DataError, GraftError
from attngraft.surgery import describe_saved, graft, grafts
from attngraft.training import EvaluationContext, Phase, Recipe, evaluate, fit, load_recipe
from attngraft.training.evaluate import Evaluation

ROW = {
    "epoch",
    "phase",
    "train_loss",
    "train_top1",
    "eval_split",
    "eval_loss",
    "eval_top1",
    "lr",
    "moved",
    "time_s",
    "images_per_s",
}


def test_it_learns_and_tells(tmp_path: Path, squares: Dataset):
    result = run_fit(small_model(), squares, tmp_path / "run", recipe=short_recipe(epochs=8, lr=0.2))
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < 0.5 * losses[0]
    assert result.top1 > 0.8
    assert not result.model.training
    assert result.train_time_s > 0
    assert "top-1" in str(result)


def test_the_run_folder_is_the_whole_truth(tmp_path: Path, squares: Dataset):
    folder = tmp_path / "run"
    result = run_fit(small_model(), squares, folder, recipe=short_recipe(epochs=3))
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "metrics.jsonl",
        "model.safetensors",
        "predictions.safetensors",
        "run.json",
        "top_losses.json",
    ]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [ROW] * 3
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows == list(result.history)
    assert all(row["eval_split"] == "test" for row in rows)
    told = json.loads((folder / "run.json").read_text())
    assert told["status"] == "finished"
    assert told["classes"] == list(CLASSES)
    assert told["data"]["fingerprint"] == squares.fingerprint
    assert told["recipe"]["phases"][0]["epochs"] == 3
    assert told["precision"] == {"dtype": "fp32", "layout": "contiguous"}
    assert told["results"]["test"]["top1"] == result.top1
    assert told["results"]["train_time_s"] == pytest.approx(sum(row["time_s"] for row in rows), abs=0.01)
    assert told["hardware"]
    assert told["versions"]["torch"]
    found = Evaluation.read(folder / "predictions.safetensors")
    assert np.array_equal(found.probabilities, result.evaluation.probabilities)


def test_the_evaluation_is_that_of_the_returned_model(tmp_path: Path, squares: Dataset):
    model = small_model()
    result = run_fit(model, squares, tmp_path / "run")
    assert result.model is model
    again = evaluate(model, squares.test, EvaluationContext.of(model))
    assert np.array_equal(again.probabilities, result.evaluation.probabilities)


def test_a_finished_run_returns_at_once_with_the_same_results(tmp_path: Path, squares: Dataset):
    first = run_fit(small_model(), squares, tmp_path / "run")
    before = contents(tmp_path / "run")
    model = small_model(seed=5)
    second = run_fit(model, squares, tmp_path / "run", progress=AtStep(1, lambda: pytest.fail("it trained again")))
    assert second.model is model
    assert_same_run(first, second)
    assert first.history == second.history
    assert first.train_time_s == second.train_time_s
    assert contents(tmp_path / "run") == before


def test_a_finished_run_of_a_grafted_model_comes_back_too(tmp_path: Path, squares: Dataset):
    model = graft(small_model(), "cbam", where="stage", input_size=(3, 16, 16))
    first = run_fit(model, squares, tmp_path / "run")
    other = graft(small_model(seed=3), "cbam", where="stage", input_size=(3, 16, 16))
    second = run_fit(other, squares, tmp_path / "run")
    assert_same_run(first, second)
    assert len(grafts(second.model)) == 3


def test_seed_and_data_decide_everything(tmp_path: Path, squares: Dataset):
    one = run_fit(droppy_model(), squares, tmp_path / "one")
    torch.manual_seed(77)  # the caller's random numbers must not matter
    two = run_fit(droppy_model(), squares, tmp_path / "two")
    other = run_fit(droppy_model(), squares, tmp_path / "other", seed=1)
    assert_same_run(one, two)
    assert metrics(one.run_dir) != metrics(other.run_dir)


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path, squares: Dataset):
    model = droppy_model()
    state = torch.get_rng_state()
    run_fit(model, squares, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)


def test_large_and_negative_seeds_are_fine(tmp_path: Path, squares: Dataset):
    for seed in (2**62, -1):
        assert run_fit(small_model(), squares, tmp_path / str(seed), seed=seed, mixup=0.2).history


def test_three_phases_of_a_grafted_network(tmp_path: Path, squares: Dataset):
    model = graft(small_model(), "cbam", where="stage", input_size=(3, 16, 16))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def note(step: int) -> None:
        seen[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    class EveryStep(AtStep):
        def advance(self, steps: int = 1) -> None:
            self.done += steps
            note(self.done)

    phases = (
        Phase("head", train=("head", "grafts"), epochs=1, lr=2e-3),
        Phase("upper", train=("head", "grafts", "upper:0.5"), epochs=1, lr=5e-4),
        Phase("all", epochs=1, lr=2e-4),
    )
    recipe = Recipe("three", phases, batch_size=16)
    result = run_fit(model, squares, tmp_path / "run", recipe=recipe, progress=EveryStep(0, lambda: None))
    assert [row["phase"] for row in result.history] == ["head", "upper", "all"]
    moved_first = {name for name, tensor in seen[3].items() if not torch.equal(tensor, before[name])}
    assert all(name.startswith("head.") or ".graft." in name for name in moved_first)
    assert torch.equal(seen[6]["block1.0.weight"], before["block1.0.weight"])
    assert not torch.equal(seen[6]["block3.0.weight"], before["block3.0.weight"])
    assert not torch.equal(seen[9]["block1.0.weight"], before["block1.0.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_built_in_digits_and_a_timm_network(tmp_path: Path):
    model = attngraft.create_backbone("timm:resnet10t", num_classes=10, pretrained=False)
    result = fit(model, "cluttered-digits", run_dir=tmp_path / "run", epochs=3, image_size=32, limit=20, **PLAIN)
    assert len(result.history) == 3
    assert len(result.evaluation.labels) == 20


def test_a_folder_of_pictures_is_read_with_a_bar(tmp_path: Path):
    from PIL import Image

    for split, count in (("train", 4), ("test", 2)):
        for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
            for number in range(count):
                path = tmp_path / "photos" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 18), (colour[0], number, colour[2])).save(path)
    titles = []

    class Titles(AtStep):
        def start(self, title: str, total: int, done: int = 0) -> None:
            titles.append((title, total))

    result = fit(
        small_model(2),
        tmp_path / "photos",
        recipe=short_recipe(batch_size=64),
        run_dir=tmp_path / "run",
        progress=Titles(0, lambda: None),
        **PLAIN,
    )
    assert titles == [("reading images", 12), ("training", 2)]  # fewer images than a batch: one step per epoch
    assert result.evaluation.ids[0] == "test/blue/0.png"


def test_the_last_images_that_fill_no_batch_wait(tmp_path: Path, squares: Dataset):
    steps = []

    class Steps(AtStep):
        def start(self, title: str, total: int, done: int = 0) -> None:
            steps.append(total)

    run_fit(small_model(), squares, tmp_path / "run", batch_size=20, progress=Steps(0, lambda: None))
    assert steps == [2 * 2]


# --- what a recipe asks for


def test_the_moving_average_is_what_is_evaluated(tmp_path: Path, squares: Dataset):
    model = small_model()
    expected: dict[str, torch.Tensor] = {}
    decays = iter([2 / 11, 3 / 12, 0.3, 0.3, 0.3])

    class Follow(AtStep):
        def advance(self, steps: int = 1) -> None:
            decay = next(decays) if expected else 0.0
            for name, tensor in model.state_dict().items():
                if name in expected and tensor.is_floating_point():
                    expected[name].mul_(decay).add_(tensor, alpha=1 - decay)
                else:
                    expected[name] = tensor.clone()

    result = run_fit(
        model, squares, tmp_path / "run", recipe=short_recipe(ema_decay=0.3), progress=Follow(0, lambda: None)
    )
    for name, tensor in result.model.state_dict().items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name
    assert result.model.block1[1].num_batches_tracked == 6
    assert result.history[-1]["eval_top1"] == result.top1
    assert result.history[-1]["eval_loss"] == result.evaluation.loss


def test_a_frozen_part_is_its_own_average(tmp_path: Path, squares: Dataset):
    model = small_model()
    model.block1[1].num_batches_tracked.fill_(123_457)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = replace(short_recipe(ema_decay=0.9), phases=(Phase("head", train=("head",), epochs=2),))
    result = run_fit(model, squares, tmp_path / "run", recipe=recipe)
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("head")), name


def test_clipping_limits_the_step(tmp_path: Path, squares: Dataset):
    def moved(name: str, **options) -> float:
        model = small_model()
        before = [p.detach().clone() for p in model.parameters()]
        recipe = short_recipe(1, lr=0.01, schedule="constant", momentum=0.0, weight_decay=0.0, batch_size=48)
        run_fit(model, squares, tmp_path / name, recipe=recipe, **options)
        return float(
            sum((p.detach() - b).square().sum() for p, b in zip(model.parameters(), before, strict=True)).sqrt()
        )

    assert moved("clipped", clip_norm=1e-3) == pytest.approx(1e-5, rel=1e-2)
    assert moved("free") > 1e-3


@pytest.mark.parametrize("options", [slow({"mixup": 0.4}), slow({"cutmix": 1.0}), {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing_changes_training_and_still_learns(tmp_path: Path, squares: Dataset, options: dict):
    recipe = short_recipe(epochs=6, lr=0.2)
    plain = run_fit(small_model(), squares, tmp_path / "plain", recipe=recipe)
    mixed = run_fit(small_model(), squares, tmp_path / "mixed", recipe=recipe, **options)
    again = run_fit(small_model(), squares, tmp_path / "again", recipe=recipe, **options)
    assert mixed.history[0]["train_loss"] != plain.history[0]["train_loss"]
    assert_same_run(mixed, again)
    assert mixed.top1 > 0.5


def test_label_smoothing_is_in_the_training_loss(tmp_path: Path, squares: Dataset):
    recipe = short_recipe(epochs=1, batch_size=48, augment="none", label_smoothing=0.3)
    found = run_fit(small_model(), squares, tmp_path / "run", recipe=recipe).history[0]["train_loss"]
    transform = build_transform("none", PREPROCESSING, train=False)
    images = torch.stack([transform(squares.train.image(i)) for i in range(48)])
    with torch.no_grad():
        log_p = small_model().train()(images).log_softmax(1)  # the only step starts from these weights
    targets = 0.7 * torch.eye(3)[torch.from_numpy(squares.train.labels)] + 0.1
    assert found == pytest.approx(float(-(targets * log_p).sum(1).mean()), rel=1e-5)


# --- decisions never touch the test images


def swapped_test(data: Dataset) -> Dataset:
    """The same training and validation images with a test split that says the opposite."""
    wrong = replace(data.test, targets=(data.test.labels + 1) % len(CLASSES))
    return replace(data, test=wrong)


@pytest.mark.parametrize(
    "options", [{"select": "best"}, {"early_stopping": 1}, {"early_stopping": 2, "select": "best"}]
)
def test_decisions_depend_on_validation_alone(tmp_path: Path, squares_with_val: Dataset, options: dict):
    recipe = short_recipe(epochs=8, lr=0.5, schedule="constant", **options)
    one = run_fit(small_model(), squares_with_val, tmp_path / "one", recipe=recipe)
    two = run_fit(small_model(), swapped_test(squares_with_val), tmp_path / "two", recipe=recipe)
    assert_same_weights(one.model, two.model)
    assert metrics(one.run_dir) == metrics(two.run_dir)
    assert all(row["eval_split"] == "val" for row in one.history)
    assert one.top1 != two.top1


def test_select_best_keeps_the_epoch_with_the_lowest_validation_loss(tmp_path: Path, squares_with_val: Dataset):
    recipe = short_recipe(epochs=6, lr=1.5, schedule="constant", select="best", momentum=0.95)
    result = run_fit(small_model(), squares_with_val, tmp_path / "run", recipe=recipe)
    losses = [row["eval_loss"] for row in result.history]
    assert min(losses) < losses[-1]
    val = evaluate(result.model, squares_with_val.val, EvaluationContext.of(result.model))
    assert val.loss == pytest.approx(min(losses), rel=1e-6)


def test_early_stopping_ends_after_so_many_epochs_without_progress(tmp_path: Path, squares_with_val: Dataset):
    recipe = short_recipe(epochs=30, lr=1.5, schedule="constant", early_stopping=2, momentum=0.95)
    result = run_fit(small_model(), squares_with_val, tmp_path / "run", recipe=recipe)
    losses = [row["eval_loss"] for row in result.history]
    assert len(losses) < 30
    assert min(losses[:-2]) <= min(losses[-2:])
    assert all(min(losses[: i - 2]) > min(losses[i - 2 : i]) for i in range(3, len(losses)))


def test_the_plateau_recipe_from_end_to_end(tmp_path: Path, squares_with_val: Dataset):
    recipe = load_recipe("plateau", epochs=10, batch_size=16, lr_scale=100.0)
    recipe = replace(recipe, phases=(replace(recipe.phases[0], patience=1),))
    result = run_fit(small_model(), squares_with_val, tmp_path / "run", recipe=recipe)
    rates = [row["lr"] for row in result.history]
    losses = [row["eval_loss"] for row in result.history]
    drops = 0
    for number, rate in enumerate(rates):
        assert rate == pytest.approx(0.03 * 0.1**drops)
        drops += int(number > 0 and losses[number] >= min(losses[:number]))
    assert drops > 0


def test_decisions_without_validation_images_are_refused(tmp_path: Path, squares: Dataset):
    for options in ({"select": "best"}, {"early_stopping": 3}):
        with pytest.raises(DataError, match="no validation images"):
            run_fit(small_model(), squares, tmp_path / "run", **options)
    with pytest.raises(DataError, match="no validation images"):
        run_fit(small_model(), squares, tmp_path / "run", recipe="plateau")
    assert not (tmp_path / "run").exists()


def test_data_by_name_get_a_validation_split_where_the_recipe_decides(tmp_path: Path):
    torch.manual_seed(0)
    result = fit(
        small_model(10),
        "cluttered-digits",
        recipe=short_recipe(1, select="best"),
        run_dir=tmp_path / "run",
        image_size=16,
        limit=20,
        **PLAIN,
    )
    assert result.history[0]["eval_split"] == "val"


def test_without_a_curve_nothing_is_evaluated_on_the_way(tmp_path: Path, squares: Dataset):
    result = run_fit(small_model(), squares, tmp_path / "run", curve=False)
    assert all(set(row) == ROW - {"eval_split", "eval_loss", "eval_top1"} for row in result.history)


# --- the machine


def test_precision_is_chosen_once_and_kept(tmp_path: Path, squares: Dataset, monkeypatch: pytest.MonkeyPatch):
    def stop() -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_fit(small_model(), squares, folder, precision="auto", progress=AtStep(4, stop))
    chosen = json.loads((folder / "run.json").read_text())["precision"]
    assert set(chosen) == {"dtype", "layout"}
    monkeypatch.setattr("attngraft.training.precision._time_step", lambda step: pytest.fail("timed again"))
    run_fit(small_model(), squares, folder, precision="auto")
    assert json.loads((folder / "run.json").read_text())["precision"] == chosen


def test_bf16_and_channels_last_train(tmp_path: Path, squares: Dataset):
    result = run_fit(small_model(), squares, tmp_path / "run", precision="bf16")
    assert all(tensor.dtype != torch.bfloat16 for tensor in result.model.state_dict().values())
    assert np.isfinite(result.evaluation.probabilities).all()


def test_tensorboard_files_are_written(tmp_path: Path, squares: Dataset):
    pytest.importorskip("tensorboard")
    run_fit(small_model(), squares, tmp_path / "run", tensorboard=True)
    files = list((tmp_path / "run" / "tensorboard").iterdir())
    assert len(files) == 1
    assert b"train_loss" in files[0].read_bytes()


def test_tensorboard_that_is_not_installed_is_said_before_anything_is_written(
    tmp_path: Path, squares: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("attngraft.training.preflight.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install attngraft\[tensorboard\]"):
        run_fit(small_model(), squares, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_fit_works_outside_the_main_thread(tmp_path: Path, squares: Dataset):
    results = []
    thread = threading.Thread(target=lambda: results.append(run_fit(small_model(), squares, tmp_path / "thread")))
    thread.start()
    thread.join()
    assert_same_run(results[0], run_fit(small_model(), squares, tmp_path / "main"))


def test_the_handlers_of_signals_are_given_back(tmp_path: Path, squares: Dataset):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    run_fit(small_model(), squares, tmp_path / "run")
    assert [signal.getsignal(number) for number in numbers] == before
    with pytest.raises(KeyboardInterrupt):
        run_fit(
            small_model(),
            squares,
            tmp_path / "stopped",
            progress=AtStep(1, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        )
    assert [signal.getsignal(number) for number in numbers] == before


# --- refused before anything is written


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "nonsense"}, ConfigError, "device 'nonsense' cannot be used"),
        ({"device": "meta"}, ConfigError, "device 'meta' cannot be used"),
        ({"precision": "fp23"}, ConfigError, "did you mean 'fp32"),
        ({"workers": -1}, ConfigError, "workers is -1"),
        ({"checkpoint_minutes": -1.0}, ConfigError, "checkpoint_minutes"),
        ({"recipe": "scracth"}, ConfigError, "did you mean 'scratch'"),
        ({"batchsize": 3}, ConfigError, "did you mean 'batch_size'"),
        ({"lr_scale": 1e200}, ConfigError, "a learning rate of 5e\\+198: lower lr or lr_scale"),
        ({"image_size": 4}, ConfigError, "at least 8 pixels"),
        (
            {"recipe": Recipe("g", (Phase("only", train=("grafts",)),))},
            ConfigError,
            "phase 'only' trains grafts, of which this model has nothing",
        ),
    ],
)
def test_what_cannot_work_is_refused_early(
    tmp_path: Path, squares: Dataset, options: dict, error: type[Exception], message: str
):
    with pytest.raises(error, match=message) as caught:
        run_fit(small_model(), squares, tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_number_of_classes_is_refused(tmp_path: Path, squares: Dataset):
    with pytest.raises(DataError, match=r"4 logits .* 3 classes: create it with num_classes=3"):
        run_fit(small_model(4), squares, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_logits_are_counted_not_believed(tmp_path: Path, squares: Dataset):
    model = small_model(3)
    model.head = nn.Linear(model.head.in_features, 5)
    with pytest.raises(DataError, match="5 logits"):
        run_fit(model, squares, tmp_path / "run")


def test_images_that_the_model_cannot_take_are_refused(tmp_path: Path, squares: Dataset):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    with pytest.raises(DataError, match="does not run on images of 16 x 16") as caught:
        run_fit(model, squares, tmp_path / "run", image_size=16)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_head_is_refused(tmp_path: Path, squares: Dataset):
    with pytest.raises(BackboneError, match="add a head"):
        run_fit(nn.Conv2d(3, 3, 1), squares, tmp_path / "run", image_size=16)


def test_a_model_from_elsewhere_trains_and_comes_back(tmp_path: Path, squares: Dataset):
    def own() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))

    first = run_fit(own(), squares, tmp_path / "run", image_size=16)
    assert_same_run(first, run_fit(own(), squares, tmp_path / "run", image_size=16))


def test_a_dead_graft_is_refused(tmp_path: Path, squares: Dataset):
    model = graft(small_model(), "se", where="stage", input_size=(3, 16, 16))
    model.get_submodule(next(iter(grafts(model))))._forward_hooks.clear()
    with pytest.raises(GraftError, match="not live"):
        run_fit(model, squares, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_training_image_is_enough(tmp_path: Path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    result = run_fit(model, coloured_squares(train=1, test=3), tmp_path / "run", image_size=16)
    assert len(result.history) == 2


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_weights_of_another_precision_are_refused_with_what_to_do(tmp_path: Path, squares: Dataset, kind: torch.dtype):
    with pytest.raises(DataError, match=r"convert it with model\.float\(\)"):
        run_fit(small_model(3).to(kind), squares, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class WithoutGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = small_model(3)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_a_model_that_lets_no_gradient_through_is_refused(tmp_path: Path, squares: Dataset):
    with pytest.raises(BackboneError, match=r"no gradient leads .* take no_grad"):
        run_fit(WithoutGradients(), squares, tmp_path / "run", image_size=16)
    assert not (tmp_path / "run").exists()


def test_phases_decide_what_is_trained_of_a_frozen_model(tmp_path: Path, squares: Dataset):
    first = run_fit(small_model(3), squares, tmp_path / "free")
    assert_same_run(first, run_fit(small_model(3).requires_grad_(False), squares, tmp_path / "frozen"))


def test_a_tilde_is_the_home_folder_and_a_seed_may_be_numpys(
    tmp_path: Path, squares: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = run_fit(small_model(3), squares, "~/run", seed=np.int64(1))
    assert found.run_dir == tmp_path / "run"
    assert describe_saved("~/run").plan is None
    assert not Path("~").exists()
