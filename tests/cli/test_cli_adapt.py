"""adapt and watch through the command line; what they do is tested beside them."""

from __future__ import annotations

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

import attngraft as ag
from attngraft.continual.adaptation.create_store import create_store
from attngraft.continual.guard.guard import GuardPolicy
from attngraft.data import load_data
from attngraft.surgery.version_store.store import Store

SIDE = 16
MACHINE = ("--device", "cpu", "--set", "workers=0", "--set", "precision=fp32+contiguous")
QUICK = (*MACHINE, "--epochs", 1, "--replay", 20)


def write(folder, count, seed, light=None):
    """Pictures of two classes, by folder: dark and light ones, or all of one light."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        name, level = ("dark", 60) if number % 2 else ("light", 160)
        pixels = rng.integers(0, 60, (SIDE, SIDE, 3)) + (level if light is None else light)
        path = folder / name / f"{seed}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        os.utime(path, (1e9 + number, 1e9 + number))
    return folder


@pytest.fixture
def columns():
    return 160


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    home = tmp_path_factory.mktemp("adapt")
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=2), "se", input_size=(3, SIDE, SIDE))
    run = ag.save(model, home / "run", classes=["dark", "light"]).parent
    write(home / "data/train", 20, 0)
    write(home / "data/test", 300, 1)
    data = load_data(home / "data", image_size=SIDE)
    return create_store(home / "store", run, data=data, policy=GuardPolicy(delta=0.2, class_delta=None)).path


@pytest.fixture
def store(template, tmp_path):
    shutil.copytree(template, tmp_path / "store")
    return tmp_path / "store"


def test_adapt_tells_what_was_compared_and_what_became_of_it(attngraft, store, tmp_path):
    new = write(tmp_path / "evening", 120, 2)
    code, out, err = attngraft("adapt", store, new, *QUICK, "--set", "blends=[1.0]")
    assert code == 0, err
    words = " ".join(out.split())
    assert "images: 120 given, 120 new (learn" in words
    assert all(name in out for name in ("none", "bn-statistics", "head", "all", "adapted"))
    assert "of the way to the new weights, chosen on them" in words
    assert words.count("top-1 on the new tune images") == 1
    code, again, _ = attngraft("adapt", store, new, *QUICK, "--set", "blends=[1.0]", "--json")
    document = json.loads(again)
    assert code == 0
    assert document["sentence"] in words
    assert document["data"]["name"] == "evening"
    assert (document["served"] == Store.open(store).head) is (document["status"] != "promoted")


def test_adapt_refuses_in_one_sentence(attngraft, store, tmp_path):
    new = write(tmp_path / "evening", 120, 3)
    for change, message in (
        (("--update", "grafts+heads"), "unknown part 'heads'"),
        (("--set", "epoch=3"), "did you mean 'epochs'"),
        (("--limit", 2), "too few to learn from"),
    ):
        code, out, err = attngraft("adapt", store, new, *QUICK, *change)
        assert (code, out) == (2, "")
        assert message in " ".join(err.split())
    (new / "dark").rename(new / "drak")
    code, _, err = attngraft("adapt", store, new, *QUICK)
    assert code == 2
    assert "'drak'" in err
    assert "--classes extend" in " ".join(err.split())
    assert [entry["event"] for entry in Store.open(store).journal.entries()] == ["create"]


def test_files_that_cannot_be_read_are_left_out_where_one_says_so(attngraft, store, tmp_path):
    new = write(tmp_path / "evening", 120, 4)
    (new / "dark/broken.png").write_bytes(b"no image")
    code, _, err = attngraft("adapt", store, new, *QUICK)
    assert code == 2
    assert "1 of 121 images cannot be read" in " ".join(err.split())
    code, out, err = attngraft("adapt", store, new, *QUICK, "--skip-broken", "--no-controls", "--json")
    assert code == 0, err
    assert json.loads(out)["data"]["images"] == 120


def test_watch_says_what_it_sees_and_json_is_json_alone(attngraft, store, tmp_path):
    inbox = write(tmp_path / "inbox", 110, 5)
    look = ("watch", store, inbox, "--window", 100, "--once", *MACHINE)
    code, out, err = attngraft(*look)
    assert (code, err) == (0, "")
    assert "window 1: 100 images, no drift" in out
    assert "10 images wait until there are enough of them for a window." in out
    write(inbox, 100, 6, light=190)
    code, out, err = attngraft(*look, "--json")
    assert code == 0
    assert json.loads(out) == {"windows": 2, "alarm": 2, "labels_wanted": 100}
    assert "labels are needed" in err
    code, out, _ = attngraft("store", store, "--json")
    assert json.loads(out)["served"] == json.loads(out)["base"]


def test_watch_refuses_in_one_sentence(attngraft, store, tmp_path):
    (tmp_path / "inbox").mkdir()
    for change, message in (
        ((), "need 1,000, twice as many: take --window"),
        (("--window", 100, "--false-alarms", 2), "expected more than 0 and less than 1"),
        (("--window", 100, "--set", "epoch=3"), "unknown option 'epoch'"),
        (("--window", 100, "--labels-needed", 2000), "ask for as many as needed"),
    ):
        code, out, err = attngraft("watch", store, tmp_path / "inbox", "--once", *MACHINE, *change)
        assert (code, out) == (2, "")
        assert message in " ".join(err.split())
    assert attngraft("watch", store, tmp_path / "gone", "--once", *MACHINE)[0] == 2


def test_interrupting_a_watch_is_one_sentence(attngraft, store, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    (tmp_path / "inbox").mkdir()
    monkeypatch.setattr(time, "sleep", interrupt)
    code, out, err = attngraft("watch", store, tmp_path / "inbox", "--window", 100, *MACHINE)
    assert (code, out) == (130, "")
    assert "the same command goes on from there" in " ".join(err.split())
