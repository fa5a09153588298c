from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import attngraft as ag
from attngraft.cli import VERBS


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("<b>light</b>", 128)):
        for number in range(12):
            path = folder / name.replace("/", "_") / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(low, low + 127, (20, 20, 3), dtype=np.uint8)).save(path)
    return folder


SMALL = (
    "--image-size",
    16,
    "--epochs",
    1,
    "--recipe",
    "one-cycle",
    "--batch-size",
    8,
    "--precision",
    "fp32+contiguous",
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_option_is_documented(attngraft, verb):
    code, out, _ = attngraft(verb, "--help")
    assert code == 0
    assert f"attngraft {verb}" in out


def test_attentions_as_table_and_json(attngraft):
    code, out, _ = attngraft("attentions")
    assert code == 0
    assert "cbam-channel" in out
    rows = json.loads(attngraft("attentions", "--json")[1])
    assert {row["name"] for row in rows} >= {"cbam", "se", "static"}
    assert next(row for row in rows if row["name"] == "se")["parameters"] == 2 * 256 * 16 + 256 + 16
    assert "option reduction = 16" in attngraft("attentions", "cbam")[1]


def test_sites_as_table_and_plan(attngraft):
    code, out, _ = attngraft("sites", "small-cnn", "--attention", "se@block2.*")
    assert code == 0
    assert "block2.3" in out
    plan = json.loads(attngraft("sites", "small-cnn", "--where", "pool", "--json")[1])
    assert plan["attention"] == "cbam"
    assert [site["channels"] for site in plan["sites"]] == [32, 64, 128]


def test_fit_predict_and_report(attngraft, images, tmp_path):
    run = tmp_path / "run"
    code, out, err = attngraft("fit", images, "--backbone", "small-cnn", "--attention", "eca", "--run-dir", run, *SMALL)
    assert code == 0, err
    assert "top-1" in out
    assert (run / "report.html").is_file()
    assert "<b>light</b>" not in (run / "report.html").read_text(encoding="utf-8")
    code, out, _ = attngraft("predict", run, images / "dark", "--top", 2, "--output", "json")
    assert code == 0
    assert len(json.loads(out)) == 12
    code, out, _ = attngraft("predict", run, images / "dark" / "0.png")
    assert out.splitlines()[0] == "image,class_1,probability_1"
    (run / "report.html").unlink()
    assert attngraft("report", run)[0] == 0
    assert (run / "report.html").is_file()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, images):
    model = ag.create_backbone("small-cnn", num_classes=2)
    return ag.save(model, tmp_path_factory.mktemp("saved"), classes=("<b>light<_b>", "dark"))


def test_predictions_go_to_a_new_file_and_never_over_another(attngraft, saved, images, tmp_path):
    for name in ("p.csv", "deep/p.json"):
        code, out, err = attngraft("predict", saved, images / "dark", "--output", tmp_path / name)
        assert code == 0, err
        assert out == f"predictions of 12 images: {tmp_path / name}\n"
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 13
    assert len(json.loads((tmp_path / "deep/p.json").read_text())) == 12
    code, _, err = attngraft("predict", saved, images / "dark", "--out", tmp_path / "p.csv")
    assert (code, "nothing is overwritten" in err) == (2, True)
    code, _, err = attngraft("predict", saved, images / "dark", "--out", tmp_path / "p.xlsx")
    assert (code, "expected the name of a .csv or .json file" in err) == (2, True)
    code, _, err = attngraft("predict", "nowhere", images / "dark", "--out", tmp_path / "p.csv" / "q.csv")
    assert (code, "p.csv is no folder" in err) == (2, True)


@pytest.mark.parametrize("verb", [("fit", "--attention", "se"), ("compare", "--attention", "se")])
def test_a_recipe_that_trains_no_grafts_is_refused_before_the_images_are_read(attngraft, tmp_path, verb):
    asked = ("nowhere", "--backbone", "small-cnn", "--recipe", "probe", "--out", tmp_path / "run")
    code, _, err = attngraft(verb[0], *asked, *verb[1:])
    assert (code, "solves the head alone" in err) == (2, True)


def test_labels_give_the_accuracy_beside_the_predictions(attngraft, saved, images, tmp_path):
    code, out, err = attngraft("predict", saved, images / "dark", "--labels", images)
    assert (code, len(out.splitlines())) == (0, 13)
    assert "of 12 labelled images" in err
    out = attngraft("predict", saved, images / "dark/0.png", "--labels", images, "--out", tmp_path / "p.csv")[1]
    assert "predictions of 1 image:" in out
    assert "of 1 labelled image" in out


def test_compare_prints_a_sentence_and_writes_a_page(attngraft, images, tmp_path):
    arguments = (
        "compare",
        images,
        "--backbone",
        "small-cnn",
        "--attention",
        "se",
        "--seeds",
        2,
        "--out",
        tmp_path / "c",
    )
    code, out, err = attngraft(*arguments, *SMALL)
    assert code == 0, err
    assert "no evidence that se helps or hurts" in " ".join(out.split())
    assert (tmp_path / "c/report.html").is_file()
    code, out, _ = attngraft(*arguments, *SMALL, "--json")
    assert code == 0
    assert json.loads(out)["status"] == "finished"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("attentions", "cbma"), "did you mean 'cbam'"),
        (("sites", "timm:resnt18"), "did you mean 'resnet18'"),
        (("sites", "small-cnn", "--attention", "cbam@blokc1"), "did you mean 'block1'"),
        (("compare", "nowhere", "--backbone", "small-cnn"), "nowhere"),
        (("compare", "cluttered-digits", "--backbone", "small-cnn", "--recipe", "scrach"), "did you mean 'scratch'"),
        (("compare", "cluttered-digits", "--backbone", "small-cnn", "--set", "clip_nrm=1"), "did you mean 'clip_norm'"),
        (("compare", "cluttered-digits", "--backbone", "small-cnn", "--attention", "se:reducton=4"), "'reduction'"),
        (("predict", "nowhere", "x.png"), "x.png"),
        (("report", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_with_2(attngraft, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = attngraft(*arguments)
    assert code == 2
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_names_the_nearest(attngraft):
    code, _, err = attngraft("compare", "cluttered-digits", "--backbone", "small-cnn", "--sedes", "3")
    assert code == 2
    assert "--seeds" in err


def test_importing_is_light():
    """What is only needed later is imported later: these would cost seconds at every start."""
    script = "import attngraft, attngraft.cli, sys; print(*[m for m in sys.modules])"
    loaded = set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"torchvision", "timm", "matplotlib", "scipy.stats", "sklearn", "jinja2", "tensorboard"}


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.slow  # the same with SIGTERM is among the faults
def test_ctrl_c_leaves_a_run_that_the_same_command_finishes(tmp_path):
    command = [sys.executable, "-m", "attngraft", "fit", "cluttered-digits", "--backbone", "small-cnn"]
    command += ["--recipe", "scratch", "--limit", "100", "--out", str(tmp_path / "run")]
    command += list(map(str, ("--image-size", 16, "--epochs", 40, "--batch-size", 10, "--precision", "fp32")))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=default_interrupt)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("run/checkpoints/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=600)
    assert process.returncode == 130
    assert messages.strip() == "interrupted: what was done is saved, and the same command goes on from there."
    subprocess.run(command, check=True, capture_output=True, timeout=6000)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"


def default_interrupt() -> None:
    """What a terminal gives its programs; a test runner in the background may ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_compare_reads_predictions_and_needs_no_data(attngraft, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{i},{s},{v},{i % 2},{(i + s + (v == 'none' and i < 9)) % 2}" for v in ("none", "se") for s in (0, 2) for i in range(40)]  # fmt: skip
    header = "id,run,arm,target,pred"
    for name, part in (("a.csv", lines[:80]), ("b.csv", lines[80:])):
        (tmp_path / name).write_text("\n".join([header, *part]))
    code, out, err = attngraft("compare", "--predictions", "a.csv", "b.csv", "--metric", "macro-f1")
    assert code == 0, err
    assert "macro F1" in out
    assert "image from 'id'; seed from 'run'; variant from 'arm'" in " ".join(out.split())
    assert (tmp_path / "runs/compare-predictions-a/report.html").is_file()
    code, out, _ = attngraft("compare", "--predictions", "a.csv", "b.csv", "--json", "--out", "other")
    assert json.loads(out)["predictions"]["files"] == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backbone", "small-cnn"], "there is no DATA"),
        (["photos"], "there is no --backbone"),
        (["--predictions", "x.csv", "--seeds", "3", "--epochs", "2"], "leave out --seeds, --epochs"),
        (["--predictions", "x.csv", "--columns", "image"], "expected ROLE=NAME"),
        (["--predictions", "x.csv"], "x.csv is no file"),
        (["photos", "--backbone", "small-cnn", "--baseline", "se"], "are for --predictions"),
    ],
)
def test_compare_says_in_one_sentence_what_is_missing(attngraft, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = attngraft("compare", *arguments)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_compare_on_two_data_sets_combines_them(attngraft, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, tmp_path / "brighter")
    for path in (tmp_path / "brighter").rglob("*.png"):
        Image.fromarray(np.clip(np.asarray(Image.open(path)).astype(int) + 9, 0, 255).astype(np.uint8)).save(path)
    options = ("--backbone", "small-cnn", "--attention", "se", "--seeds", 2, "--out", "both", *SMALL)
    code, out, err = attngraft("compare", images, "brighter", *options)
    assert code == 0, err
    assert "on 2 data sets" in out
    assert {path.parent.name for path in (tmp_path / "both").rglob("report.html")} == {"both", images.name, "brighter"}
    code, out, _ = attngraft("combine", f"both/{images.name}", "both/brighter", "--json")
    assert [one["name"] for one in json.loads(out)["sets"]] == [images.name, "brighter"]
    assert (tmp_path / f"runs/combine-{images.name}-and-1-more/combined.json").is_file()
    code, _, err = attngraft("compare", images, images, *options)
    assert (code, "twice" in err) == (2, True)
