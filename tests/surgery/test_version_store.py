"""A store gives back every version to the bit, serves one of them, and survives what happens to processes and disks."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_children import base_model, changed, files_of
from torch import nn

import attngraft as ag
from attngraft.backbones import backbone_info, note_preprocessing_, preprocessing_of
from attngraft.config import Preprocessing
from attngraft.errors import BackboneError, ConfigError, GraftError, RunError
from attngraft.surgery import classes_of, describe_saved, note_classes_, replace_head_
from attngraft.surgery.version_store.delta import same_bits
from attngraft.surgery.version_store.store import Store
from attngraft.surgery.version_store.version import id_of

BASE = base_model()
CHANGED = changed(BASE, 0.1)
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Base and one version, the base served."""
    path = tmp_path_factory.mktemp("stores") / "store"
    store = Store.create(path, BASE, settings={"guard": {"delta": 0.02}}, made={"by": "test"})
    with store.writing():
        store.add(CHANGED, parent=store.base, made={"update": "grafts"})
    return path


@pytest.fixture
def store(template, tmp_path):
    shutil.copytree(template, tmp_path / "store")
    return Store.open(tmp_path / "store")


def second(store):
    return store.versions()[1].id


def assert_same_model(model, other):
    assert list(model.state_dict()) == list(other.state_dict())
    for name, tensor in model.state_dict().items():
        assert same_bits(tensor, other.state_dict()[name]), name
    with torch.no_grad():
        assert torch.equal(model(IMAGES), other(IMAGES))


def refused(words, error=RunError):
    return pytest.raises(error, match=words)


def test_a_new_store_serves_its_base(store):
    base = store.version(store.head)
    assert (base.id, base.number, base.parent, base.made) == (store.base, 0, None, {"by": "test"})
    assert (base.changed, base.delta_bytes, base.tensors) == (0, 0, ())
    assert base.parameters == sum(parameter.numel() for parameter in BASE.parameters())
    assert store.settings == {"guard": {"delta": 0.02}}
    assert store.classes == base.classes == ("ant", "bee", "wasp")
    assert store.created.endswith("+00:00")
    assert store.verify() == []
    model = store.model()
    assert not model.training
    assert classes_of(model) == ("ant", "bee", "wasp")
    assert_same_model(model, BASE)


def test_a_version_holds_what_changed(store):
    version = store.version(second(store))
    grafts = {name: p for name, p in BASE.named_parameters() if "graft" in name.split(".")}
    assert set(version.tensors) == set(grafts)
    assert version.changed == sum(parameter.numel() for parameter in grafts.values())
    assert (version.number, version.parent, version.made) == (1, store.base, {"update": "grafts"})
    assert 4 * version.changed < version.delta_bytes < (store.path / "base/model.safetensors").stat().st_size / 10
    assert_same_model(store.model(version.id), CHANGED)
    assert json.loads(json.dumps(version.to_dict()))["id"] == version.id


def test_rolling_back_gives_the_same_bits_however_often(store):
    first, second_ = store.base, second(store)
    trained = store.model(second_).train()
    trained(IMAGES)  # statistics and counters of BatchNorm move
    with store.writing():
        third = store.add(trained, parent=second_).id
        for version in (second_, third, first, third, second_, first):
            store.promote(version, attempt=1) if version != first else store.rollback(first[:6])
            assert store.head == version
            assert Store.open(store.path).head == version
            assert_same_model(store.model(), {first: BASE, second_: CHANGED, third: trained.eval()}[version])
    assert "block1.1.num_batches_tracked" in store.version(third).tensors
    moves = [(e["event"], e["from"], e["to"]) for e in store.journal.entries() if "to" in e]
    assert moves[0] == ("promote", first, second_)
    assert moves[2] == ("rollback", third, first)
    assert store.journal.entries()[1]["attempt"] == 1


def test_promoting_what_is_served_changes_nothing(store):
    with store.writing():
        store.promote(second(store))
        lines = store.journal.path.read_bytes()
        store.promote(second(store))
        store.rollback(second(store))
    assert store.journal.path.read_bytes() == lines


def test_the_same_content_is_one_version(store):
    before = files_of(store.path)
    with store.writing():
        again = store.add(copy.deepcopy(CHANGED), parent=store.base[:5], made={"update": "grafts"})
        assert again == store.version(second(store))
        assert files_of(store.path) == before
        other = store.add(CHANGED, parent=store.base, made={"update": "all"})
        child = store.add(CHANGED, parent=again.id, made={"update": "grafts"})
        base = store.add(BASE, parent=store.base)
    assert len({again.id, other.id, child.id, base.id, store.base}) == 5
    assert base.tensors == ()
    assert [version.number for version in store.versions()] == [0, 1, 2, 3, 4]
    assert_same_model(store.model(base.id), BASE)


def test_added_classes_are_served(store):
    model = note_classes_(store.model(), ("ant", "bee", "wasp", "hornet"))
    replace_head_(model, 4)
    with store.writing():
        version = store.add(model, parent=store.base)
        store.promote(version.id)
    assert store.classes == ("ant", "bee", "wasp", "hornet")
    assert_same_model(store.model(), model)
    assert backbone_info(store.model()).num_classes == describe_saved(store.path).backbone.num_classes == 4
    assert describe_saved(store.path).classes == store.classes
    with store.writing():
        child = store.add(changed(store.model(), 0.3), parent=version.id)
        store.rollback(store.base)
    assert store.classes == ("ant", "bee", "wasp")
    assert store.version(child.id).classes == ("ant", "bee", "wasp", "hornet")
    assert_same_model(store.model(child.id), changed(model, 0.3))


def test_another_way_to_take_images_comes_back(store):
    wanted = Preprocessing(image_size=48, mean=(0.5, 0.5, 0.5))
    model = note_preprocessing_(store.model(), wanted)
    with store.writing():
        store.promote(store.add(model, parent=store.base).id)
    assert preprocessing_of(store.model()) == describe_saved(store.path).preprocessing == wanted
    assert describe_saved(store.path).backbone.preprocessing == wanted
    with store.writing():
        store.rollback(store.base)
    assert describe_saved(store.path) == describe_saved(store.path / "base")


def test_a_store_is_loaded_as_its_served_version(store):
    with store.writing():
        store.promote(second(store))
    assert_same_model(ag.load(store.path), CHANGED)
    assert describe_saved(store.path) == describe_saved(store.path / "base")
    fresh = ag.create_backbone(str(store.path), pretrained=False)
    assert fresh.training
    assert_same_model(fresh.eval(), CHANGED)
    assert backbone_info(ag.create_backbone(str(store.path), num_classes=7, pretrained=False)).num_classes == 7


def test_a_model_of_ones_own_needs_an_instance(tmp_path):
    def network():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    model = network().eval()
    store = Store.create(tmp_path / "store", model)
    other = copy.deepcopy(model)
    other[1].running_mean += 1
    with store.writing():
        store.promote(store.add(other, parent=store.base).id)
    with refused("attngraft did not create", BackboneError):
        store.model()
    assert_same_model(store.model(backbone=network()), other)
    assert_same_model(ag.load(store.path, backbone=network()), other)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ag.create_backbone("small-cnn", num_classes=3), "other grafts"),
        (
            lambda: ag.graft(ag.create_backbone("small-cnn", num_classes=3), "se", input_size=(3, 32, 32)),
            "other grafts",
        ),
        (
            lambda: ag.graft(ag.create_backbone("timm:test_resnet", num_classes=3, pretrained=False), "cbam"),
            "another backbone",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1)), "another backbone"),
    ],
)
def test_a_model_that_is_built_otherwise_is_refused(store, make, words):
    before = files_of(store.path)
    with store.writing(), refused(f"the model has {words} than the base of the store.*make another store", GraftError):
        store.add(make(), parent=store.base)
    assert files_of(store.path) == before


def test_writing_takes_the_lock(store):
    for call in (
        lambda: store.add(BASE, parent=store.base),
        lambda: store.promote(second(store)),
        lambda: store.rollback(second(store)),
        lambda: store.record("drift"),
    ):
        with refused("is not open for writing: use it within `with store.writing"):
            call()
    with store.writing(), refused(rf"is in use by process {os.getpid()}"), Store.open(store.path).writing():
        raise AssertionError("two writers")
    with store.writing() as same:
        assert same.record("drift", window=3)["window"] == 3
    assert store.journal.entries()[-1]["event"] == "drift"


@pytest.mark.parametrize("event", ["promote", "rollback"])
def test_a_promotion_is_done_and_not_just_recorded(store, event):
    with store.writing(), refused(f"call store.{event}", ConfigError):
        store.record(event, to=second(store))


def test_readers_see_one_of_the_versions_at_any_time(store):
    versions = {store.base, second(store)}
    seen, problems, done = set(), [], threading.Event()

    def read():
        while not done.is_set():
            try:
                seen.add(Store.open(store.path).head)
            except RunError as error:  # pragma: no cover - what must not be
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    with store.writing():
        for number in range(60):
            store.promote([second(store), store.base][number % 2])
    done.set()
    reader.join()
    assert problems == []
    assert seen <= versions


HEADS = ["", "\n", "0" * 15, "0" * 17, "0" * 16, "g" * 16, "../../../etc/xyz", "ABCDEF0123456789", "\0" * 16, "é" * 16]


@pytest.mark.parametrize("text", [*HEADS, None])
def test_where_head_is_damaged_rolling_back_helps(store, text):
    with store.writing():
        store.promote(second(store))
    head = store.path / "HEAD"
    head.unlink() if text is None else head.write_text(text)
    for read in (lambda: store.head, store.model, lambda: ag.load(store.path), lambda: store.classes):
        with refused(r"HEAD .*: roll back to a version: attngraft store .*store --rollback VERSION\.$"):
            read()
    assert len(store.verify()) == 1
    assert_same_model(store.model(store.base), BASE)
    with store.writing():
        store.rollback(store.base)
    assert store.head == store.base
    assert store.verify() == []


def test_a_head_behind_the_journal_is_brought_up_to_it(store):
    with store.writing():
        store.promote(second(store))
    (store.path / "HEAD").write_text(f"{store.base}\n")  # as after a kill between the two
    assert store.head == store.base
    with store.writing():
        pass
    assert store.head == second(store)


def test_what_a_killed_writer_left_is_cleared_away(store):
    before = files_of(store.path)
    half = store.path / "versions/.new.part"
    half.mkdir()
    (half / "delta.safetensors").write_text("half")
    (store.path / ".HEAD.abc.part").write_text("half")
    with store.journal.path.open("a") as file:
        file.write('{"seq":1,"event":"promo')
    assert len(store.versions()) == 2
    assert store.verify() == []
    with store.writing():
        store.promote(second(store))
    assert files_of(store.path) == before
    assert (store.path / "journal.torn").read_text() == '{"seq":1,"event":"promo\n'


def test_an_altered_journal_stops_writers_and_not_readers(store):
    with store.writing():
        store.promote(second(store))
    journal = store.path / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"create"', '"CREATE"'))
    with refused("line 2 of .*journal.jsonl does not continue"), store.writing():
        raise AssertionError("opened")
    assert len(store.verify()) == 1
    assert_same_model(store.model(), CHANGED)


def flip(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["base/model.safetensors", "delta.safetensors", "manifest.json"])
@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_a_damaged_version_is_seen_and_never_served(store, name, how):
    with store.writing():
        store.promote(second(store))
    path = store.path / name if "/" in name else store.path / "versions" / second(store) / name
    flip(path, 200) if how == "flipped" else path.unlink()
    ids = [version for version in os.listdir(store.path / "versions") if version != store.base]
    for read in (store.model, lambda: ag.load(store.path), lambda: store.model(ids[0])):
        with pytest.raises(RunError) as caught:
            read()
        assert "\n" not in str(caught.value)
    problems = store.verify()
    assert problems
    assert any(str(path) in problem or ids[0] in problem for problem in problems)
    with store.writing():
        if name != "base/model.safetensors":
            store.rollback(store.base)
            assert_same_model(store.model(), BASE)
        with pytest.raises(RunError):
            store.promote(ids[0])


def test_a_version_whose_parent_is_gone_is_told(store):
    with store.writing():
        child = store.add(CHANGED, parent=second(store))
    parent = second(store)
    shutil.rmtree(store.path / "versions" / parent)
    assert store.verify() == [f"version {child.id} was made from {parent}, which is not there: restore it from a copy."]


@pytest.mark.parametrize("text", ["", "x", "../..", "..", "G" * 16, "0" * 17, "base"])
def test_what_is_no_id_never_becomes_a_path(store, text):
    for call in (store.version, store.model):
        with refused(r"is no version: give the first digits of an id"):
            call(text)


def test_unknown_and_ambiguous_ids_are_refused(store):
    unknown = next(digits for digits in "0123456789abcdef" if not any(v.id[0] == digits for v in store.versions()))
    with refused(f"has no version {unknown}: list them with attngraft store"):
        store.version(unknown)
    with store.writing():
        for number in range(16):  # 18 ids begin with 16 digits
            store.add(CHANGED, parent=store.base, made={"n": number})
    first = [version.id[0] for version in store.versions()]
    digit = next(digit for digit in first if first.count(digit) > 1)
    with refused(rf"has \d+ versions that begin with {digit}: list them"):
        store.version(digit)


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_a_newer_attngraft_wrote_is_refused(store):
    newer = r"was written by a newer attngraft, format 2; this one reads 1: update attngraft\.$"
    manifest = store.path / "versions" / second(store) / "manifest.json"
    rewrite(manifest, format=2)
    with refused(newer):
        store.version(second_id := manifest.parent.name)
    with refused(newer):
        store.model(second_id)
    rewrite(store.path / "store.json", format=2)
    for read in (Store.open, ag.load, describe_saved):
        with refused(newer):
            read(store.path)


@given(
    key=st.sampled_from(
        ["classes", "preprocessing", "logits", "made", "number", "parent", "delta", "tensors", "format"]
    ),
    value=st.none() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({}) | st.just([3]),
)
def test_a_manifest_that_was_changed_is_one_sentence(template, key, value):
    store = Store.open(template)
    path = template / "versions" / second(store) / "manifest.json"
    before = path.read_text()
    wanted = store.version(second(store))
    try:
        rewrite(path, **{key: value})
        found, sentence = None, ""
        try:
            found = store.version(path.parent.name)
        except RunError as error:
            sentence = str(error)
        if found is None:
            assert re.fullmatch(r"[^\n]+\.", sentence)
        else:  # the number is for people, and nothing depends on it
            assert replace(found, number=wanted.number) == wanted
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"kind": "run"}', '{"kind": "store", "format": 1}', '{"kind": "store"}']
)
def test_a_store_file_that_is_not_ours_is_refused(store, text):
    (store.path / "store.json").write_text(text)
    for read in (Store.open, ag.load):
        with refused("store.json|store was written by a newer"):
            read(store.path)


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with refused(r"is no store: make one with attngraft store .* --create RUN\.$"):
        Store.open(tmp_path)


def test_a_store_is_made_of_a_run_and_in_an_empty_folder(tmp_path):
    ag.save(BASE, tmp_path / "run")
    (tmp_path / "store").mkdir()
    store = Store.create(tmp_path / "store", tmp_path / "run", made={"source": "run"})
    assert_same_model(store.model(), BASE)
    assert store.classes == ("ant", "bee", "wasp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "store"]


def test_equal_models_make_equal_bases(tmp_path):
    ids = {Store.create(tmp_path / name, BASE).base for name in ("a", "b")}
    assert len(ids) == 1
    assert Store.create(tmp_path / "c", CHANGED).base not in ids


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_a_folder_in_use_is_left_alone(tmp_path, taken):
    path = tmp_path / "store"
    path.write_text("mine") if taken == "file" else ag.save(BASE, path)
    before = files_of(tmp_path)
    with refused("is in use: choose a new folder for the store"):
        Store.create(path, BASE)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("options", [{"settings": {"x": float("nan")}}, {"made": {"x": {1}}}])
def test_only_json_values_are_kept(tmp_path, store, options):
    with refused("takes JSON values only", ConfigError):
        Store.create(tmp_path / "new", BASE, **options)
    assert not (tmp_path / "new").exists()
    with store.writing(), refused("made takes JSON values only", ConfigError):
        store.add(CHANGED, parent=store.base, made={"x": BASE})


def test_an_id_follows_from_the_content(store):
    path = store.path / "versions" / second(store) / "manifest.json"
    manifest = json.loads(path.read_text())
    assert id_of(manifest) == path.parent.name
    assert re.fullmatch("[0-9a-f]{16}", id_of(manifest))
    assert id_of({**manifest, "created": "later", "number": 9}) == path.parent.name
    assert id_of({**manifest, "parent": None}) != path.parent.name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_killed_or_without_space_at_any_call_the_store_is_whole_and_the_same_again_ends_the_same(tmp_path):
    """What is asserted at each call is in the processes themselves; see `endings`."""
    script = Path(__file__).with_name("store_children.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    killed, full = found["killed"], found["full"]
    assert killed["between"]["calls"] >= 30
    assert killed["between"]["heads"] == 3
    assert killed["within"] == {"calls": 3, "heads": 3, "torn": 3, "refusals": [""]}
    assert full["calls"]["calls"] == killed["between"]["calls"]
    sentences = [*full["calls"]["refusals"], *full["sizes"]]
    assert {Path(text.split(" ")[0]).name for text in sentences if text} >= {
        "HEAD",
        "journal.jsonl",
        "delta.safetensors",
        "manifest.json",
    }
    for text in sentences:
        assert text == "" or re.fullmatch(
            r"\S+ cannot be written \(.*\): free space and try again\.|\S+ cannot be written \(.*\): free space or choose another folder\.",
            text,
        )
    assert [bool(text) for text in full["sizes"]] == [True] * 5 + [False]
    assert found["created"]["whole"] >= 2


def test_the_command_in_an_error_can_be_pasted(tmp_path: Path):
    folder = tmp_path / "my store's"
    with pytest.raises(RunError) as error:
        Store.open(folder)
    command = str(error.value).partition("make one with ")[2].rstrip(".")
    assert shlex.split(command) == ["attngraft", "store", str(folder), "--create", "RUN"]
