"""Adaptations of a real small network: who is promoted, who is not, and what is on the disk afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from adapting import CLASSES, MACHINE, QUICK, Stores, base_data, coloured_noise, reddish, relabelled, shuffled, teal
from PIL import Image
from torch import nn

import attngraft as ag
from attngraft.continual.adaptation.adapt import adapt
from attngraft.continual.adaptation.adaptation_record import adaptations
from attngraft.continual.adaptation.create_store import create_store
from attngraft.continual.adaptation.promotion import lost_attempts
from attngraft.continual.adaptation.release_test import release
from attngraft.continual.images.stored_domains import Domains
from attngraft.data import ImageSet, load_data
from attngraft.errors import ConfigError, DataError, RunError
from attngraft.surgery import note_classes_
from attngraft.surgery.version_store.store import Store
from attngraft.tasks import Regression, note_task_of_
from attngraft.training import Phase, Recipe, Silent, fit


def predictions(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)))


def events(store: Store) -> list[str]:
    return [entry["event"] for entry in store.journal.entries()]


def history(store: Store) -> Mapping[str, Any]:
    return json.loads((store.path / "history.json").read_text())


@pytest.fixture(scope="module")
def adapted(stores: Stores, tmp_path_factory):
    """A store with two adaptations, and what they returned."""
    store = stores.make(tmp_path_factory.mktemp("adapted") / "store")
    first = adapt(store.path, coloured_noise(700, 10, reddish), name="evening", **QUICK)
    second = adapt(store.path, coloured_noise(700, 11, teal), name="night", **QUICK, controls=False)
    return store, first, second


def test_what_helps_is_promoted_and_costs_one_attempt(adapted):
    store, first, _ = adapted
    assert first.promoted
    rows = {row["name"]: row for row in first.document["variants"]}
    assert list(rows) == ["none", "bn-statistics", "head", "all", "adapted"]
    assert rows["adapted"]["new_top1"] > rows["none"]["new_top1"] + 0.2
    assert rows["adapted"]["old_top1"] > rows["none"]["old_top1"] - 0.05
    assert events(store)[:4] == ["create", "attempt", "verdict", "promote"]
    assert store.journal.entries()[3]["to"] == first.document["candidate"]
    assert first.document["guard"]["alpha"] < 0.05
    assert f"({first.document['new_images']} images)" in str(first)


def test_little_is_changed_and_the_counts_are_true(adapted):
    store, first, _ = adapted
    base, candidate = store.model(store.base), store.model(first.document["candidate"])
    assert first.document["candidate"] != store.base
    changed = sum(int((p != q).sum()) for p, q in zip(base.parameters(), candidate.parameters(), strict=True))
    rows = {row["name"]: row for row in first.document["variants"]}
    assert rows["adapted"]["changed_parameters"] == changed
    assert rows["bn-statistics"]["changed_parameters"] == 0
    assert 0 < changed < 0.05 * rows["adapted"]["parameters"]
    for name, parameter in base.named_parameters():
        if "graft" not in name and parameter.ndim > 1:  # convolutions and the weights of the head are not in the update
            assert torch.equal(parameter, dict(candidate.named_parameters())[name])


def test_the_served_model_predicts_like_the_candidate(adapted):
    store, _, second = adapted
    assert store.head == second.document["candidate"]
    assert torch.equal(predictions(ag.load(store.path)), predictions(store.model(second.document["candidate"])))


def test_a_later_adaptation_is_judged_on_all_that_came_before(adapted):
    store, _, second = adapted
    base, evening, night = Domains(store.path).all()
    assert second.document["guard"]["old_images"] == len(base.of("guard")) + len(evening.of("guard"))
    assert second.document["guard"]["new_images"] == len(night.of("guard"))


def test_the_history_tells_what_the_journal_and_the_models_say(adapted):
    store, first, _ = adapted
    found = history(store)
    assert [domain["name"] for domain in found["domains"]] == ["lights", "evening", "night"]
    assert [version["status"] for version in found["versions"]] == ["base", "promoted", "served"]
    matrix = np.array(found["matrix"], dtype=float)
    assert matrix.shape == (3, 3)
    from attngraft.continual.adaptation.candidate_training import evaluate_version

    again = evaluate_version(
        store.model(first.document["candidate"]), Domains(store.path).all()[1].of("tune"), torch.device("cpu")
    )
    assert matrix[1, 1] == again.score
    assert found["transfer"]["backward"] == pytest.approx((matrix[2, :2] - np.diag(matrix)[:2]).mean())
    assert found["transfer"]["forward"] == pytest.approx(matrix[1, 2] - matrix[0, 2])
    assert [row["passed"] for row in found["ledger"]] == [True, True]
    assert found["ledger"][1]["spent"] == pytest.approx(found["ledger"][0]["alpha"] + found["ledger"][1]["alpha"])
    assert [event["event"] for event in found["events"]] == ["create", "promote", "promote"]


def test_promoted_images_cannot_be_learned_from_again(adapted):
    store, _, second = adapted
    lines = len(events(store))
    with pytest.raises(DataError, match="is what adaptation 2 learned from, and that was promoted"):
        adapt(store.path, coloured_noise(700, 11, teal), **QUICK)
    with pytest.raises(DataError, match="no new image"):
        adapt(store.path, coloured_noise(700, 11, teal).select(range(500)), **QUICK)
    assert store.head == second.document["candidate"]
    assert len(events(store)) == lines


def test_a_release_is_measured_once_per_version(adapted):
    store, _, second = adapted
    first = release(store.path)
    assert first == release(store.path)
    assert first["version"] == second.document["candidate"]
    assert first["images"] == sum(len(domain.of("final")) for domain in Domains(store.path).all())
    assert first["low"] < first["top1"] < first["high"]
    assert events(store).count("release") == 1
    assert len(history(store)["releases"]) == 1


def test_nothing_is_spent_on_what_does_not_help(stores, tmp_path):
    store = stores.make(tmp_path / "store")
    before = predictions(store.model())
    found = adapt(store.path, coloured_noise(600, 12, shuffled), **QUICK, controls=False)
    assert found.status == "refused"
    if found.record.guard is None:
        assert "attempt" not in events(store)
    assert torch.equal(before, predictions(ag.load(store.path)))


def test_what_forgets_is_not_served(stores, tmp_path):
    store = stores.make(tmp_path / "store")
    before = store.head
    options = {**QUICK, "update": "all", "backbone_lr": 0.01, "replay": 0, "distill": 0.0, "blends": (1.0,)}
    found = adapt(store.path, coloured_noise(700, 13, relabelled), **options, controls=False)
    rows = {row["name"]: row for row in found.document["variants"]}
    assert rows["adapted"]["new_top1"] > rows["none"]["new_top1"]
    assert rows["adapted"]["old_top1"] < rows["none"]["old_top1"] - 0.1
    assert found.status == "refused"
    assert "old data" in str(found)
    assert store.head == before
    # the same question again: the same answer, and nothing is done anew
    assert adapt(store.path, coloured_noise(700, 13, relabelled), **options, controls=False).document == found.document
    assert events(store) == ["create", "refuse"]


def test_a_strict_store_refuses_what_a_lenient_one_serves(stores, tmp_path):
    from attngraft.continual.guard.guard import GuardPolicy

    store = stores.make(tmp_path / "store", policy=GuardPolicy(delta=0.005, class_delta=None))
    found = adapt(store.path, coloured_noise(600, 14, reddish), **QUICK, controls=False)
    assert found.status == "refused"
    assert "larger delta" in str(found)
    assert events(store) == ["create", "refuse"]


def test_a_class_that_is_new_is_explained_or_added(stores, tmp_path, write_folder):
    store = stores.make(tmp_path / "store")
    folder = write_folder(tmp_path / "new", 450, {"red": reddish, "green": reddish, "white": reddish})
    with pytest.raises(DataError, match=r"does not know \('white'\).*--classes extend"):
        adapt(store.path, folder, **QUICK)
    assert len(Domains(store.path).all()) == 1
    found = adapt(store.path, folder, classes="extend", **{**QUICK, "update": "bn+head-bias"}, controls=False)
    assert found.document["options"]["update"] == "bn+head"  # a class that was never learned needs its weights
    model = store.model(found.document["candidate"])
    assert predictions(model).shape == (8, 4)
    assert ag.surgery.classes_of(model) == (*CLASSES, "white")
    assert predictions(store.model(store.base)).shape == (8, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"update": "grafts+heads"}, "unknown part 'heads'"),
        ({"epoch": 3}, "unknown option 'epoch': did you mean 'epochs'"),
        ({"classes": "all"}, "expected known or extend"),
        ({"device": "cuda:9"}, "cannot be used"),
        ({"blends": (2.0,)}, "parts of the way"),
    ],
)
def test_wrong_options_change_nothing(adapted, change, message):
    store, *_ = adapted
    lines = len(events(store))
    with pytest.raises(ConfigError, match=message):
        adapt(store.path, coloured_noise(300, 15, reddish), **{**QUICK, **change})
    assert len(Domains(store.path).all()) == 3
    assert len(events(store)) == lines


def test_images_without_labels_are_no_data(adapted):
    store, *_ = adapted
    images = coloured_noise(300, 16, reddish)
    unlabelled = ImageSet(images.ids, np.full(300, -1), images.pixel_hashes, images.store, images.rows)
    with pytest.raises(DataError, match="no new image"):
        adapt(store.path, unlabelled, **QUICK)


def test_a_second_writer_is_refused(adapted):
    store, *_ = adapted
    with Store.open(store.path).writing(), pytest.raises(RunError, match="is in use by process"):
        adapt(store.path, coloured_noise(300, 17, reddish), **QUICK)


def test_after_a_rollback_the_same_images_may_be_learned_from_again_and_cost_nothing(adapted, tmp_path):
    _, first, second = adapted
    store = copied(adapted, tmp_path)
    with store.writing():
        store.rollback(first.document["candidate"])
    spent = events(store).count("attempt")
    again = adapt(store.path, coloured_noise(700, 11, teal), name="night", **QUICK, controls=False)
    assert again.promoted
    assert again.document["candidate"] == second.document["candidate"] == store.head
    assert events(store).count("attempt") == spent  # the question has had its answer


def test_a_journal_that_lost_lines_is_noticed_by_every_writer(adapted, tmp_path):
    store = copied(adapted, tmp_path)
    served, file = store.head, store.path / "journal.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]))  # the second attempt and its promotion are gone
    for sentence in (store.verify()[-1], _refusal(store)):
        assert f"serves {served}, but the journal's last move is to" in sentence
    assert store.head == served
    with store.writing(settle=True):
        store.rollback(store.base)
    assert "tells of attempt 2 of the guard" in str(lost_attempts(store))
    with pytest.raises(RunError, match="tells of attempt 2 of the guard"):
        adapt(store.path, coloured_noise(500, 18, reddish), **{**QUICK, "epochs": 1}, controls=False)
    assert store.head == store.base


def _refusal(store: Store) -> str:
    with pytest.raises(RunError) as refused:
        release(store.path)
    return str(refused.value)


def copied(adapted, folder) -> Store:
    shutil.copytree(adapted[0].path, folder / "store")
    return Store.open(folder / "store")


def test_an_adaptation_that_was_stopped_may_be_begun_again_with_other_options(adapted, tmp_path, monkeypatch):
    store = copied(adapted, tmp_path)

    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("attngraft.continual.adaptation.candidate_training.CandidateTraining.variants", stop)
        with pytest.raises(KeyboardInterrupt):
            adapt(store.path, coloured_noise(300, 19, reddish), **QUICK)
    found = adapt(store.path, coloured_noise(300, 19, reddish), **{**QUICK, "epochs": 1}, controls=False)
    assert found.document["options"]["epochs"] == 1
    statuses = [found.status for found in adaptations(store.path)]
    assert statuses[-2:] == ["given up", found.status]


def test_a_base_is_judged_by_images_that_it_has_not_learned_from(tmp_path):
    photos = tmp_path / "photos"
    for name, number in (("dark", 0), ("light", 1)):
        images = coloured_noise(120, 60 + number)
        (photos / name).mkdir(parents=True)
        for position in range(60):
            pixels = images.image(position).permute(1, 2, 0).numpy() // 2 + 120 * number
            Image.fromarray(pixels).save(photos / name / f"{position}.png")
    model = ag.create_backbone("small-cnn", num_classes=2)
    recipe = Recipe("quick", (Phase("all", epochs=1, lr=1e-3),), augment="none")
    run = fit(
        model, photos, recipe=recipe, run_dir=tmp_path / "run", split_seed=5, image_size=16, curve=False, **MACHINE
    )
    learned = set(load_data(photos, image_size=16, split_seed=5).train.pixel_hashes)
    for number, data in enumerate((None, photos)):  # with --data the split is that of the run, too
        store = create_store(tmp_path / f"store{number}", run.run_dir, data=data)
        base = Domains(store.path).all()[0]
        for role in ("tune", "guard", "final"):
            assert learned.isdisjoint(base.of(role).pixel_hashes)
    (photos / "dark" / "0.png").unlink()
    with pytest.raises(DataError, match="is not what the run in"):
        create_store(tmp_path / "other", run.run_dir, data=photos)
    assert not (tmp_path / "other").exists()


def test_a_model_that_cannot_be_built_again_has_no_store(tmp_path):
    own = note_classes_(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)), CLASSES)
    with pytest.raises(ConfigError, match="take one that create_backbone knows"):
        create_store(tmp_path / "store", own, data=base_data())


def test_a_model_of_another_task_is_refused_in_one_sentence(tmp_path):
    model = note_task_of_(ag.create_backbone("small-cnn", num_classes=2), Regression(("hue", "weight")))
    with pytest.raises(ConfigError, match="a store is not available for regression: it works for classification"):
        create_store(tmp_path / "store", model, data=base_data())
    assert not (tmp_path / "store").exists()
    store = Store.create(tmp_path / "other", model)
    with pytest.raises(ConfigError, match="adapting a served model is not available for regression"):
        adapt(store.path, coloured_noise(100, 1), **QUICK)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["candidate: grafts+bn+head-bias", "control 1 of 2: head", "control 2 of 2: all"]),
        ({"update": "head"}, ["candidate: head", "control 1 of 1: all"]),
        ({"controls": False}, ["candidate: grafts+bn+head-bias"]),
    ],
    ids=["two", "one", "none"],
)
def test_every_training_is_named_before_its_epochs(stores: Stores, tmp_path, caplog, changes, names):
    caplog.set_level("INFO", "attngraft")
    store = stores.make(tmp_path / "store")
    options = {**QUICK, "epochs": 1, **changes}
    adapt(store.path, coloured_noise(300, 10, reddish), progress=Silent(), name="evening", **options)
    told = [record.getMessage() for record in caplog.records]
    begun = [position for position, line in enumerate(told) if line.startswith("epoch 1/1")]
    assert [told[position - 1] for position in begun] == names
