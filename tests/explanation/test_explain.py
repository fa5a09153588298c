"""Everything about a run in one folder: complete, repeatable, and refused in one sentence where it cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attngraft as ag
from attngraft.errors import AttngraftError, ConfigError, DataError, RunError
from attngraft.explanation.explain import EXPLANATION_FILE, explain
from attngraft.explanation.image_source import open_subject
from attngraft.reporting import write_report

SIZE, LIMIT = 16, 24
QUICK = {"precision": "fp32+contiguous", "workers": 0, "device": "cpu", "epochs": 3, "batch_size": 16}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a few rendered digits, which have boxes."""
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=10), "cbam")
    folder = tmp_path_factory.mktemp("explain") / "run"
    ag.fit(model, "cluttered-digits", run_dir=folder, image_size=SIZE, limit=LIMIT, **QUICK)
    return folder


def state_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_a_run_is_explained_from_its_own_images(run: Path) -> None:
    before = state_of(run)
    steps: list[str] = []
    found = explain(run, examples=2, progress=steps.append)
    assert found.folder == run / "explanation"
    assert state_of(run) == before, "the run itself is as it was"
    begun = [step.split(":")[0] for step in steps]
    assert begun[:4] == ["reading images", f"gates of {LIMIT} images", "decoupling", "folding"]
    assert begun[-1] == "maps"
    assert "latency" in begun[4:-1], "the steps of folding are told too"
    document = json.loads((found.folder / EXPLANATION_FILE).read_text())
    assert document == json.loads(json.dumps(dict(found.document)))
    assert document["status"] == "finished"
    assert document["images"] == LIMIT
    assert [site["path"] for site in document["gates"]["sites"]] == list(ag.grafts(ag.load(run)))
    assert len(document["gate_history"]) == 3
    assert document["decoupling"]["intact"]["top1"] == pytest.approx(
        json.loads((run / "run.json").read_text())["results"]["test"]["top1"]
    )
    assert document["looks"]["pointing"] is not None, "cluttered-digits brings its boxes"
    assert len(document["looks"]["examples"]) == 2
    assert len(found.sentences) >= 4
    page = write_report(found.folder).read_text(encoding="utf-8")
    for title in (
        "What each part is worth",
        "The gates",
        "What folds away",
        "Where it looks",
        "Are the maps faithful?",
    ):
        assert title in page


def test_groups_are_the_unit_of_an_explanation(run: Path, tmp_path: Path) -> None:
    found = explain(run, out=tmp_path / "out", examples=0, group_by=r"\d$")
    document = found.document
    assert document["groups"] == document["decoupling"]["groups"] == document["folding"]["groups"] == 10
    assert document["looks"]["pointing"]["groups"] == document["looks"]["faithfulness"]["groups"] == 10
    assert "n = 24 images in 10 groups" in found.sentences[0]
    assert "n = 24 images in 10 groups" in write_report(found.folder).read_text(encoding="utf-8")


@pytest.mark.slow
def test_repeating_it_gives_the_same_numbers(run: Path, tmp_path: Path) -> None:
    def numbers(folder: Path) -> str:
        document = dict(explain(run, out=folder, examples=1, limit=20, seed=3).document)
        for key in ("created", "hardware", "versions"):
            document.pop(key)
        document["decoupling"].pop("speed_up")
        document["folding"].pop("latency_ms")
        return json.dumps([document[key] for key in ("gates", "decoupling", "folding", "looks")])

    first = numbers(tmp_path / "one")
    assert numbers(tmp_path / "one") == first, "an explanation replaces an earlier one"
    assert numbers(tmp_path / "two") == first


def test_a_run_without_grafts_is_explained_as_plain(run: Path, tmp_path: Path) -> None:
    model = ag.ungraft(ag.load(run))
    found = explain(model, "cluttered-digits", out=tmp_path / "plain", limit=20, examples=1)
    assert "no grafts" in found.sentences[0]
    assert found.document["gates"] is None
    assert found.document["decoupling"] is None
    assert "no grafts" in write_report(found.folder).read_text(encoding="utf-8")


def test_images_without_labels(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(photos / f"{index}.png")
    found = explain(run, photos, out=tmp_path / "out", examples=2)
    assert found.document["labelled"] is False
    assert found.document["decoupling"] is None
    assert found.document["gates"]["images"] == 5
    assert any("no labels" in sentence for sentence in found.sentences)
    assert "The gates" in write_report(found.folder).read_text(encoding="utf-8")


def somebody_elses_folder(out: Path) -> dict[str, Any]:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    return {}


def a_file_in_the_way(out: Path) -> dict[str, Any]:
    out.write_text("mine")
    return {}


def a_broken_image(out: Path) -> dict[str, Any]:
    photos = out.parent / "photos"
    photos.mkdir()
    (photos / "x.png").write_bytes(b"not a picture")
    return {"images": photos}


BAD: list[tuple[Callable[[Path], dict[str, Any]], type[AttngraftError]]] = [
    (somebody_elses_folder, RunError),
    (a_file_in_the_way, RunError),
    (a_broken_image, DataError),
    (lambda out: {"examples": -1}, ConfigError),
    (lambda out: {"seed": -1}, ConfigError),
    (lambda out: {"tolerance": 7.0}, ConfigError),
    (lambda out: {"group_by": "("}, ConfigError),
    (lambda out: {"group_by": "patient"}, DataError),
    (lambda out: {"group_by": "column:patient"}, DataError),
    (lambda out: {"group_by": "digits"}, DataError),
    (lambda out: {"boxes": out / "nowhere.csv"}, DataError),
    (lambda out: {"images": out / "nowhere"}, DataError),
    (lambda out: {"run": out / "nowhere"}, RunError),
]


@pytest.mark.parametrize(("prepare", "kind"), BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(
    run: Path, tmp_path: Path, prepare: Callable[[Path], dict[str, Any]], kind: type[AttngraftError]
) -> None:
    out = tmp_path / "out"
    options = {"run": run, "limit": 8, "out": out} | prepare(out)
    with pytest.raises(kind) as caught:
        explain(**options)
    assert "\n" not in str(caught.value)
    assert not (out / EXPLANATION_FILE).exists()
    if prepare is somebody_elses_folder:
        assert (out / "thesis.txt").read_text() == "mine"


def test_a_model_in_memory_needs_a_folder_for_the_results(run: Path) -> None:
    with pytest.raises(ConfigError, match="give out"):
        explain(ag.load(run), "cluttered-digits", limit=8)


def test_one_image_and_a_history_that_was_cut_off(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied, ignore=shutil.ignore_patterns("explanation"))
    lines = (copied / "metrics.jsonl").read_text()
    (copied / "metrics.jsonl").write_text(lines[:-20])
    found = explain(copied, limit=1, examples=0)
    assert found.document["folding"] is None
    assert found.document["gate_history"] is None
    assert any("One image" in sentence for sentence in found.sentences)
    write_report(found.folder)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_model_that_knows_nothing_has_no_faithful_map(tmp_path: Path, seed: int) -> None:
    """Random weights: a map may well mark what moves its answers, but these are no answers."""
    torch.manual_seed(seed)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=10), "cbam", init="paper")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.kaiming_normal_(parameter)
    found = explain(model, ag.load_data("cluttered-digits", image_size=SIZE, limit=LIMIT), out=tmp_path, examples=0)
    measured = found.document["looks"]["faithfulness"]
    assert all(row["verdict"] != "faithful" for row in measured["maps"])
    assert "not shown to be better than chance" in measured["sentence"]


@pytest.mark.slow
def test_a_model_of_shuffled_labels_has_no_faithful_map(tmp_path: Path) -> None:
    data = ag.load_data("cluttered-digits", image_size=SIZE, limit=80)
    labels = np.random.default_rng(0).permutation(data.train.labels)
    shuffled = replace(data, train=replace(data.train, targets=labels), fingerprint="shuffled")
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=10), "cbam")
    ag.fit(model, shuffled, run_dir=tmp_path / "run", image_size=SIZE, **QUICK)
    found = explain(tmp_path / "run", data, out=tmp_path / "out", examples=0).document["looks"]["faithfulness"]
    assert all(row["verdict"] != "faithful" for row in found["maps"])


def test_what_an_interrupted_explanation_left_is_replaced(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    explain(run, out=out, limit=4, examples=1)
    document = json.loads((out / EXPLANATION_FILE).read_text())
    (out / EXPLANATION_FILE).write_text(json.dumps(document | {"status": "partial"}))
    assert explain(run, out=out, limit=4, examples=1).document["status"] == "finished"
    shutil.rmtree(out)


def test_a_run_on_groups_is_explained_by_its_groups(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=10), "se")
    options = {**QUICK, "recipe": "scratch", "epochs": 1, "image_size": SIZE, "limit": LIMIT, "group_by": r"\d\d$"}
    ag.fit(model, "cluttered-digits", run_dir=tmp_path / "run", **options)
    subject = open_subject(tmp_path / "run", None, device=torch.device("cpu"))
    assert [name[-2:] for name in subject.view.ids] == subject.view.groups.tolist()
    again = open_subject(tmp_path / "run", None, device=torch.device("cpu"), group_by=r"\d$")
    assert again.view.group_count == len({name[-1] for name in again.view.ids})
