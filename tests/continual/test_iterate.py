"""A search tells the truth: decided on validation images, tested once, and the same after any interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iterate_children import OPTIONS, digits, watched, without_clocks

import attngraft as ag
from attngraft.continual.search.iterate import iterate
from attngraft.continual.search.search_loop import is_hopeless
from attngraft.continual.search.search_record import Iteration
from attngraft.data import Dataset, grouped
from attngraft.errors import AttngraftError, ConfigError, DataError, RunError
from attngraft.files import read_json
from attngraft.training import Evaluation, EvaluationContext, Silent, evaluate


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


@pytest.fixture(scope="module")
def looks() -> list[int]:
    """Rows of the test images that the whole search looked at."""
    return []


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data: Dataset, looks: list[int]) -> Iteration:
    """A search that nobody interrupted; tests only read it."""
    return iterate(watched(data, looks.append), run_dir=tmp_path_factory.mktemp("whole") / "search", **OPTIONS)


@pytest.fixture
def run(data: Dataset, tmp_path: Path) -> Callable[..., Iteration]:
    def call(**changes: Any) -> Iteration:
        return iterate(changes.pop("data", data), **{"run_dir": tmp_path / "search", **OPTIONS, **changes})

    return call


def trials(found: Iteration) -> list[Mapping[str, Any]]:
    return list(found.document["trials"])


def test_the_defaults_come_first_and_every_trial_is_told(whole: Iteration) -> None:
    assert [row["variant"] for row in trials(whole)[:2]] == ["none", "cbam@auto"]
    assert [row["number"] for row in trials(whole)] == [1, 2, 3]
    for row in trials(whole):
        assert row["status"] == "finished"
        assert len(row["curve"]) == 2
        assert row["measured"]["top1"]["low"] <= row["measured"]["top1"]["value"]
        assert row["costs"]["parameters"] > 0


def test_the_finalist_is_the_best_on_the_validation_images(whole: Iteration) -> None:
    best = max(trials(whole), key=lambda row: row["score"])
    assert whole.document["finalist"]["trial"] == best["number"]
    assert whole.document["best_so_far"][-1] == best["measured"]["top1"]["value"]


def test_each_test_image_is_looked_at_once_per_run_of_the_finalist(
    whole: Iteration, looks: list[int], data: Dataset
) -> None:
    rows = data.test.rows.tolist()
    assert sorted(looks) == sorted(rows * OPTIONS["seeds"])


def test_runs_of_the_search_do_not_know_the_test_images(whole: Iteration, data: Dataset) -> None:
    folders = [*whole.run_dir.glob("trials/*"), *whole.run_dir.glob("final/*")]
    assert len(folders) == 5
    assert data.val is not None
    for folder in folders:
        assert Evaluation.read(folder / "predictions.safetensors").ids == data.val.ids
        assert any("stand in for the test images" in note for note in read_json(folder / "run.json")["data"]["notes"])


def test_the_verdict_is_that_of_the_interval(whole: Iteration) -> None:
    clause = whole.document["clauses"][0]
    answers = [Evaluation.read(path) for path in sorted(whole.run_dir.glob("test/*.safetensors"))]
    assert clause["value"] == pytest.approx(np.mean([answer.value("top1") for answer in answers]))
    assert clause["low"] < clause["value"] < clause["number"] == 0.9
    assert clause["met"] is False
    assert not whole.is_met
    percent = f"{100 * clause['value']:.1f} % ({100 * clause['low']:.1f} to {100 * clause['high']:.1f})"
    assert whole.sentence.startswith(f"not met: top-1 {percent} where at least 90 % was asked (2 seeds, 40 test")
    assert "Best of 3 trials" in whole.sentence


def test_the_model_is_that_of_the_first_seed(whole: Iteration, data: Dataset) -> None:
    first = whole.document["finalist"]["runs"][0]
    assert first["seed"] == OPTIONS.get("seed", 0) + 1
    assert whole.model is not None
    assert whole.model.read_bytes() == (whole.run_dir / first["run"] / "model.safetensors").read_bytes()
    model = ag.load(whole.run_dir)
    answer = evaluate(model, data.test, EvaluationContext.of(model))
    assert answer.value("top1") == pytest.approx(first["measured"]["top1"])


def test_only_the_best_trial_keeps_its_weights(whole: Iteration) -> None:
    kept = [path.parent.name for path in whole.run_dir.glob("trials/*/model.safetensors")]
    assert kept == [f"{whole.document['finalist']['trial']:03d}"]


def test_a_finished_search_is_returned_as_it_is(whole: Iteration, data: Dataset) -> None:
    before = (whole.run_dir / "iterate.json").read_bytes()
    again = iterate(data, run_dir=whole.run_dir, **OPTIONS)
    assert again.document == json.loads(whole.to_json())
    assert (whole.run_dir / "iterate.json").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"until": "top1>=0.1"}, {"budget": "2h"}, {"trials": 9}, {"seeds": 3}, {"attentions": ["none", "se"]}, {"epochs": 3},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_another_search_in_the_same_folder_is_refused(whole: Iteration, data: Dataset, change: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="was begun with another"):
        iterate(data, run_dir=whole.run_dir, **{**OPTIONS, **change})


def test_other_images_and_other_folders_are_refused(whole: Iteration, data: Dataset, tmp_path: Path, run) -> None:
    with pytest.raises(RunError, match="other images"):
        iterate(replace(data, fingerprint="another"), run_dir=whole.run_dir, **OPTIONS)
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "diary.txt").write_text("dear")
    with pytest.raises(RunError, match=r"has files but no iterate\.json"):
        run()
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["diary.txt"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"until": "top1"}, ConfigError, "cannot be read"),
        ({"budget": "soon"}, ConfigError, "budget"),
        ({"seeds": 0}, ConfigError, "seeds is 0"),
        ({"trials": 0}, ConfigError, "trials is 0"),
        ({"seed": -1}, ConfigError, "seed is -1"),
        ({"backbone": "small-cn"}, AttngraftError, "small-cn"),
        ({"attentions": "cbma"}, ConfigError, "cbma"),
        ({"recipes": ["one-cycl"]}, ConfigError, "one-cycl"),
        ({"epochz": 3}, ConfigError, "epochz"),
    ],
)
def test_what_cannot_be_searched_is_refused_and_nothing_is_written(tmp_path, run, change, error, message) -> None:
    with pytest.raises(error, match=message):
        run(**change)
    assert not (tmp_path / "search").exists()


def test_data_without_validation_images_and_top5_of_few_classes_are_refused(run, data: Dataset) -> None:
    with pytest.raises(DataError, match="no validation images"):
        run(data=replace(data, val=None))
    with pytest.raises(ConfigError, match="unknown metric 'top5'"):
        run(data=replace(data, classes=("a", "b", "c")), until="top5>=0.9")


def test_a_requirement_that_is_met_ends_the_search_early(run) -> None:
    found = run(until="loss<=3 and parameters<=1e6", trials=50)
    assert found.is_met
    assert "the validation images show" in found.document["search_ended"]
    assert len(trials(found)) == 1
    assert found.sentence.startswith("met: loss 2.3")
    assert "; parameters 94,762 where at most 1,000,000 was asked (2 seeds" in found.sentence


def test_what_costs_too_much_is_not_trained(run, tmp_path: Path) -> None:
    """The plain network has 94,762 parameters, with CBAM it has more."""
    found = run(until="top1>=0.9 and parameters<=94762", trials=2, seeds=1)
    statuses = {row["variant"]: row["status"] for row in trials(found)}
    assert statuses["cbam@auto"] == "infeasible"
    assert statuses["none"] == "finished"
    assert not (tmp_path / "search" / "trials" / "002").exists()
    assert found.document["finalist"]["variant"] == "none"
    nothing = run(until="top1>=0.9 and parameters<=10", trials=None, run_dir=tmp_path / "none", seeds=1)
    assert nothing.sentence == "not met: none of the 3 variants keeps parameters<=10."
    assert nothing.model is None
    assert {row["status"] for row in trials(nothing)} == {"infeasible"}


def test_a_training_that_blows_up_is_one_failed_trial(run) -> None:
    found = run(trials=2, seeds=1, lr_scale=1e25, optimizer="sgd")
    assert [row["status"] for row in trials(found)] == ["failed", "failed"]
    assert "could be trained" in found.sentence
    assert not found.is_met
    assert "the loss is inf" in trials(found)[0]["reason"]


def test_time_is_kept_for_the_finalist(run) -> None:
    """A budget that is spent before the first trial leaves one epoch of it, and the finalist is trained in full."""
    found = run(trials=None, budget=0.01, epochs=4, seeds=1)
    assert [row["status"] for row in trials(found)] == ["cut"]
    assert len(trials(found)[0]["curve"]) == 1
    assert "budget is spent" in found.document["search_ended"]
    assert any("exceeded by" in note for note in found.document["notes"])
    run_dir = found.run_dir / found.document["finalist"]["runs"][0]["run"]
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 4


def test_test_images_that_were_seen_in_training_are_said(run, data: Dataset) -> None:
    mixed = replace(data.test, pixel_hashes=(*data.train.pixel_hashes[:3], *data.test.pixel_hashes[3:]))
    found = run(data=replace(data, test=mixed), trials=1, seeds=1)
    assert any(note.startswith("3 of 40 test images are among the training") for note in found.document["notes"])


def test_groups_are_the_unit_of_the_verdict(run, data: Dataset, whole: Iteration) -> None:
    parts = {name: grouped(getattr(data, name), r"\d$") for name in ("train", "val", "test")}
    together = replace(data, grouped_by=r"\d$", **parts)
    found = run(data=together)
    assert f"{len(data.test)} test images in 10 groups" in found.sentence
    blind, seen = (one.document["measured"]["top1"] for one in (whole, found))
    assert seen["value"] == blind["value"]
    assert (seen["low"], seen["high"]) != (blind["low"], blind["high"])
    with pytest.raises(RunError, match="another group_by"):
        run(data=data)


def test_a_hopeless_training_is_given_up_in_its_second_half() -> None:
    peers = [[0.1, 0.5, 0.6, 0.7]] * 3 + [[0.1, 0.2, 0.3, 0.4]]
    assert is_hopeless([0.1, 0.4], peers, 4)
    assert not is_hopeless([0.1], peers, 4), "the first half"
    assert not is_hopeless([0.1, 0.5], peers, 4), "as good as the median"
    assert not is_hopeless([0.1, 0.4], peers[:3], 4), "too few to be compared with"
    assert not is_hopeless([0.1, 0.1, 0.1, 0.1], peers, 4), "done anyway"
    assert not is_hopeless([0.6, 0.1], peers, 4), "it was good once"


def test_ctrl_c_saves_and_the_same_call_goes_on_with_the_same_trial(run, tmp_path: Path, whole: Iteration) -> None:
    class Impatient:
        steps = 0

        def start(self, title: str, total: int, done: int = 0) -> None: ...
        def note(self, values: Mapping[str, Any]) -> None: ...
        def stop(self) -> None: ...

        def advance(self, steps: int = 1) -> None:
            self.steps += 1
            if self.steps == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(progress=Impatient(), trials=1, seeds=1)
    cut_off = read_json(tmp_path / "search" / "iterate.json")
    used = read_json(tmp_path / "search" / "clock.json")["used_s"]
    assert [row["status"] for row in cut_off["trials"]] == ["running"]
    found = run(trials=1, seeds=1)
    assert without_clocks(trials(found)) == without_clocks(trials(whole)[:1])
    assert trials(found)[0]["begun_s"] == cut_off["trials"][0]["begun_s"] < used < found.document["used_s"]


def test_a_search_that_is_in_use_is_refused(run, tmp_path: Path) -> None:
    from attngraft.locking import only_one

    with only_one(tmp_path / "search" / "lock"), pytest.raises(RunError, match="in use"):
        run()


def killed(folder: Path, *arguments: int) -> list[dict[str, Any]]:
    """Let a search be killed again and again; what it looked at the test images for."""
    script = Path(__file__).with_name("iterate_children.py")
    subprocess.run([sys.executable, str(script), str(folder), *map(str, arguments)], check=True, timeout=500)
    sittings, code = np.loadtxt(folder / "sittings.txt")
    assert code == 0
    assert sittings >= 2
    return [json.loads(line) for line in (folder / "looked.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_end(folder: Path, looked: list[dict[str, Any]], whole: Iteration, data: Dataset) -> None:
    found = read_json(folder / "search" / "iterate.json")
    assert without_clocks(found) == without_clocks(dict(whole.document)), (
        "trials, finalist, bits of its models, verdict"
    )
    assert {look["status"] for look in looked} == {"testing"}
    assert len({tuple(look["models"]) for look in looked}) == 1, "tested with one finalist only"
    assert {look["row"] for look in looked} == set(data.test.rows.tolist())


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(tmp_path: Path, whole: Iteration, data: Dataset) -> None:
    assert_same_end(tmp_path, killed(tmp_path, 1), whole, data)


@pytest.mark.slow
@pytest.mark.parametrize("every", [7, 11, 16])  # fewer would not come as far as a checkpoint
def test_killed_at_every_few_files_it_ends_the_same(
    tmp_path: Path, whole: Iteration, data: Dataset, every: int
) -> None:
    assert_same_end(tmp_path, killed(tmp_path, 0, every), whole, data)


def test_every_training_is_named_before_its_epochs(
    run: Callable[..., Iteration], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "attngraft")
    found = run(trials=1, progress=Silent())
    told = [record.getMessage().split(":")[0].split("  ")[0] for record in caplog.records]
    names = ["trial 1 of 1", "final seed 1 of 2", "final seed 2 of 2"]
    at = [told.index(name) for name in names]
    assert [told[position + 1] for position in at] == ["epoch 1/2 all"] * 3
    assert found.document["search_ended"] == "1 trial was made"
