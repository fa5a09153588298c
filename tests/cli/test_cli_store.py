from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import attngraft as ag
from attngraft.continual.images.stored_domains import Domains
from attngraft.locking import only_one
from attngraft.surgery.version_store.store import Store

SIDE = 32


@pytest.fixture
def columns():
    return 120


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of two classes, saved as a run is."""
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=2), "cbam", input_size=(3, SIDE, SIDE))
    return ag.save(model, tmp_path_factory.mktemp("runs") / "one", classes=["dark", "light"]).parent


@pytest.fixture(scope="module")
def template(run, tmp_path_factory):
    """A store whose second version answers the other way round."""
    store = Store.create(tmp_path_factory.mktemp("stores") / "shop", run)
    model = store.model()
    for parameter in (model.head.weight, model.head.bias):
        parameter.data.neg_()
    with store.writing():
        store.add(model, parent=store.base, made={"update": "grafts+bn+head-bias"})
    return store.path


@pytest.fixture
def store(template, tmp_path):
    shutil.copytree(template, tmp_path / "shop")
    return Store.open(tmp_path / "shop")


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def last(store):
    return store.versions()[-1].id


def one_line(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Train and test images of the two classes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 30)):
        for name, low in (("dark", 0), ("light", 128)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(low, low + 127, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def test_a_store_is_made_of_a_run_and_its_images(attngraft, run, photos, tmp_path):
    options = ("--data", photos, "--delta", 0.03, "--class-delta", 0, "--size-budget", 1.1)
    code, out, err = attngraft("store", tmp_path / "shop", "--create", run, *options)
    assert code == 0, err
    store = Store.open(tmp_path / "shop")
    guard = store.settings["guard"]
    assert (guard["delta"], guard["class_delta"], guard["size_budget"], guard["alpha"]) == (0.03, None, 1.1, 0.05)
    base = Domains(store.path).all()[0]
    assert len(base.of("learn")) == 10
    assert len(base.packed.images) == 70
    assert store.head == store.base
    assert f"made, with {store.base} as its base" in out
    assert store.versions()[0].made["source"] == str(run)


def test_a_store_counts_groups_where_it_is_told_to(attngraft, run, photos, tmp_path):
    options = ("--data", photos, "--create", run, "--group-by", r"(\w+/\w+/\d)\d?\.png")
    assert attngraft("store", tmp_path / "shop", *options)[0] == 0
    base = Domains(Store.open(tmp_path / "shop").path).all()[0]
    assert len(set(base.packed.images.groups.tolist())) == 2 * 5 + 2 * 10
    code, out, err = attngraft("store", tmp_path / "shop", "--release")
    assert code == 0, err
    assert f"in {len(set(base.of('final').groups.tolist()))} groups" in one_line(out)
    assert attngraft("store", tmp_path / "other", *options[:-1], "patient")[0] == 2


def test_the_table_says_what_is_served_and_what_happened(attngraft, store):
    with store.writing():
        store.promote(last(store))
    code, out, err = attngraft("store", store.path)
    assert (code, err) == (0, "")
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert [row[0] for row in rows if store.base[:8] in row[:2]] == [store.base[:8]]  # without a star
    version = next(row for row in rows if last(store)[:8] in row[:2])
    assert version[:3] == ["*", last(store)[:8], store.base[:8]]
    assert version[4] == "grafts+bn+head-bias"
    assert version[5].startswith("258 of 96,")  # 2 x 128 weights and 2 biases
    assert out.splitlines()[-1].endswith(f"{last(store)} is served instead of {store.base}")


def test_rolling_back_takes_the_first_digits_and_predict_uses_what_is_served(attngraft, store, image):
    with store.writing():
        store.promote(last(store))
    answers = {}
    for version in (last(store), store.base):
        code, _, err = attngraft("store", store.path, "--rollback", version[:8])
        assert code == 0, err
        assert store.head == version
        answers[version] = attngraft("predict", store.path, image)[1].splitlines()[1].split(",")[1]
    assert set(answers.values()) == {"dark", "light"}
    assert (
        attngraft("store", store.path)[1].splitlines()[-1].endswith(f"rolled back from {last(store)} to {store.base}")
    )


def test_json_says_everything_and_nothing_else(attngraft, store):
    code, out, err = attngraft("store", store.path, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["served"], found["base"], found["classes"]) == (store.base, store.base, ["dark", "light"])
    assert [version["id"] for version in found["versions"]] == [version.id for version in store.versions()]
    assert found["versions"][1]["tensors"] == ["head.bias", "head.weight"]
    assert found["journal"] == store.journal.entries()


def test_verify_says_what_is_damaged(attngraft, store):
    code, out, _ = attngraft("store", store.path, "--verify")
    assert (code, one_line(out)) == (0, f"all files of {store.path} are what they were when they were written.")
    assert json.loads(attngraft("store", store.path, "--verify", "--json")[1]) == {"problems": []}
    path = store.path / "versions" / last(store) / "delta.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    code, out, _ = attngraft("store", store.path, "--verify")
    sentence = f"{path} was changed after it was written: restore it from a copy."
    assert (code, one_line(out)) == (2, sentence)
    code, out, _ = attngraft("store", store.path, "--verify", "--json")
    assert (code, json.loads(out)) == (2, {"problems": [sentence]})


def test_a_damaged_head_is_healed_by_rolling_back(attngraft, store, image):
    (store.path / "HEAD").write_text("../../somewhere")
    for command in (("store", store.path), ("predict", store.path, image)):
        code, out, err = attngraft(*command)
        assert (code, out) == (2, "")
        assert "roll back to a version: attngraft store" in one_line(err)
    assert attngraft("store", store.path, "--rollback", store.base)[0] == 0
    assert attngraft("predict", store.path, image)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rollback", "zz"), "'zz' is no version"),
        (("--rollback", "0" * 16), "has no version 0000000000000000: list them with attngraft store"),
        (("--rollback", "0", "--verify"), "got --rollback and --verify: expected one of them."),
        (("--create", "RUN"), "is in use: choose a new folder for the store."),
        (("--release",), "has no final images: make a store with a share for them."),
        (("--data", "photos"), "--data is fixed when the store is made"),
        (("--group-by", "folder"), "--group-by is fixed when the store is made"),
        (("--alpha", 0.1), "--alpha is fixed when the store is made: give it together with --create RUN."),
        (("--class-delta", 0.1, "--verify"), "--class-delta is fixed when the store is made"),
    ],
)
def test_mistakes_are_one_sentence_and_change_nothing(attngraft, store, run, arguments, words):
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    code, out, err = attngraft("store", store.path, *(run if a == "RUN" else a for a in arguments))
    assert (code, out) == (2, "")
    assert words in one_line(err)
    after = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    after.pop(store.path / "lock", None)
    before.pop(store.path / "lock", None)
    assert after == before


def test_what_is_no_store_or_no_run_is_one_sentence(attngraft, run, tmp_path):
    for arguments, words in (
        ((tmp_path,), "is no store: make one with attngraft store"),
        ((run,), "is no store"),
        ((tmp_path / "new", "--create", tmp_path / "nothing"), "there is no"),
        ((tmp_path / "new", "--create", run), "give them, with the split that it was trained with (data=, --data)."),
    ):
        code, out, err = attngraft("store", *arguments)
        assert (code, out) == (2, "")
        assert words in one_line(err)
    assert not (tmp_path / "new").exists()


def test_a_second_writer_is_told_who_the_first_is(attngraft, store):
    with only_one(store.path / "lock"):
        code, out, err = attngraft("store", store.path, "--rollback", store.base)
        assert (code, out) == (2, "")
        assert "is in use by process" in one_line(err)
        assert attngraft("store", store.path)[0] == 0  # readers are not kept waiting


def test_a_release_is_measured_once_and_tells_every_domain(attngraft, run, photos, tmp_path):
    attngraft("store", tmp_path / "shop", "--create", run, "--data", photos)
    first, again = (attngraft("store", tmp_path / "shop", "--release", "--json") for _ in range(2))
    assert first[0] == again[0] == 0
    told = json.loads(first[1])
    assert told == json.loads(again[1])
    store = Store.open(tmp_path / "shop")
    assert told["images"] == len(Domains(store.path).all()[0].of("final")) > 0
    assert [row["name"] for row in told["per_domain"]] == [photos.name]
    assert "which no decision has looked at" in one_line(attngraft("store", tmp_path / "shop", "--release")[1])
