from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from training_helpers import classes_evaluation

from attngraft.checksums import check_seal, file_hash, read_record, read_sealed_json, write_sealed, write_sealed_json
from attngraft.errors import RunError
from attngraft.training import Evaluation

RECORD = {"format": 2, "kind": "run", "text": 'a "sha256": "' + "a" * 64 + '" inside', "versions": {"attngraft": "7.0"}}


def write_tensors(path: Path, **metadata: str) -> Path:
    tensors = {"sha256": np.arange(6.0, dtype=np.float32)}
    write_sealed(path, lambda temporary, sealed: save_file(tensors, temporary, sealed), metadata)
    return path


def test_the_seal_is_the_hash_of_the_file_with_zeros_in_its_place(tmp_path: Path):
    data = write_tensors(tmp_path / "a.safetensors", note="x").read_bytes()
    length = int.from_bytes(data[:8], "little")
    seal = json.loads(data[8 : 8 + length])["__metadata__"]["sha256"]
    assert hashlib.sha256(data.replace(seal.encode(), b"0" * 64)).hexdigest() == seal
    assert check_seal(tmp_path / "a.safetensors")
    write_sealed_json(tmp_path / "a.json", RECORD)
    text = (tmp_path / "a.json").read_text()
    seal = json.loads(text)["sha256"]
    assert hashlib.sha256(text.replace(seal, "0" * 64).encode()).hexdigest() == seal


def test_a_sealed_file_is_plain_safetensors(tmp_path: Path):
    assert load_file(write_tensors(tmp_path / "a.safetensors"))["sha256"].tolist() == [0, 1, 2, 3, 4, 5]


def test_equal_contents_make_equal_files(tmp_path: Path):
    names = {f"key {i} \u00e4\n\x1f\x7f\\": 'w\u20ac\U0001f600"' for i in range(9)}
    files = {write_tensors(tmp_path / f"{i}.safetensors", **names).read_bytes() for i in range(9)}
    assert len(files) == 1
    with safe_open(tmp_path / "0.safetensors", framework="np") as file:
        assert {key: value for key, value in file.metadata().items() if key != "sha256"} == names


def test_a_file_that_never_had_a_seal_is_known_as_such(tmp_path: Path):
    save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors", {"text": '"sha256": "' + "a" * 64 + '"'})
    assert not check_seal(tmp_path / "a.safetensors")


def test_every_bit_of_a_small_file_counts(tmp_path: Path):
    path = write_tensors(tmp_path / "a.safetensors")
    data = path.read_bytes()
    for position in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[position // 8] ^= 1 << position % 8
        path.write_bytes(spoilt)
        try:
            assert not check_seal(path)  # a bit of the mark itself: the reader knows that there must be one
        except RunError:
            continue


def test_every_bit_of_a_record_counts(tmp_path: Path):
    path = tmp_path / "run.json"
    write_sealed_json(path, RECORD)
    assert read_record(path, "run") == RECORD
    data = path.read_bytes()
    for position in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[position // 8] ^= 1 << position % 8
        path.write_bytes(spoilt)
        with pytest.raises(RunError):
            read_record(path, "run")


def test_a_later_format_is_refused_with_the_version_that_it_needs(tmp_path: Path):
    write_sealed_json(tmp_path / "run.json", {**RECORD, "format": 3})
    with pytest.raises(
        RunError, match=r"has format 3, written by attngraft 7\.0; .*: install attngraft 7\.0 or a newer"
    ):
        read_record(tmp_path / "run.json", "run")


@pytest.mark.parametrize("number", [0, -1, 1.0, True, "2", None, [2], 10**30])
def test_a_format_that_is_no_number_of_ours_is_refused(tmp_path: Path, number: object):
    write_sealed_json(tmp_path / "run.json", {**RECORD, "format": number})
    with pytest.raises(RunError, match="has format"):
        read_record(tmp_path / "run.json", "run")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"kind": "run"}', '{"kind": "run", "format": 2}', "\ufeff{}", "[" * 9999]
)
def test_what_is_no_record_is_one_sentence(tmp_path: Path, text: str):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError) as caught:
        read_record(tmp_path / "run.json", "run")
    assert "\n" not in str(caught.value)


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((10 << 30).to_bytes(8, "little") + b"{}")
    with pytest.raises(RunError, match="is damaged"):
        check_seal(path)


def test_the_hash_is_that_of_sha256sum(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(value=st.dictionaries(st.text(), JSON, max_size=5))
def test_any_record_comes_back(tmp_path_factory: pytest.TempPathFactory, value: dict):
    path = tmp_path_factory.getbasetemp() / "any.json"
    record = {**{k: v for k, v in value.items() if k != "sha256"}, "kind": "run", "format": 2, "versions": {}}
    write_sealed_json(path, record)
    assert read_record(path, "run") == record


def test_hashes_inside_of_a_record_are_no_seals(tmp_path: Path):
    value = {"kind": "search", "models": [{"sha256": "a" * 64}], "last": {"sha256": "b" * 64}}
    (tmp_path / "plain.json").write_text(json.dumps(value, indent=1) + "\n")
    assert read_sealed_json(tmp_path / "plain.json") == (value, False)
    write_sealed_json(tmp_path / "sealed.json", value)
    assert read_sealed_json(tmp_path / "sealed.json") == (value, True)


def test_names_of_many_images_fit_into_a_header(tmp_path: Path):
    ids = tuple(f"test/a class {{with}} braces/{number:09d}-{'x' * 60}.png" for number in range(250_000))
    predictions = classes_evaluation(np.full((250_000, 2), 0.5), np.zeros(250_000), ids)
    predictions.write(tmp_path / "p.safetensors")
    assert Evaluation.read(tmp_path / "p.safetensors").ids == ids
