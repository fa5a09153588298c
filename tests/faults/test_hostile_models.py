"""Model files and folders that are attacks: no code runs, and each is refused in one line, at once and in little memory."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from refusing import Boom, assert_cheap, assert_refused, outcome, outcomes
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import attngraft as ag
from attngraft.continual.images.stored_domains import unpack
from attngraft.explanation import explain
from attngraft.files import read_json
from attngraft.reporting import write_report
from attngraft.surgery import describe_saved
from attngraft.surgery.version_store.delta import read_delta
from attngraft.surgery.version_store.store import Store
from attngraft.training import RunFolder
from attngraft.training.checkpoint import read_checkpoint
from attngraft.training.evaluate import Evaluation

READERS: dict[str, Callable[[Path], object]] = {
    "load": ag.load,
    "describe_saved": describe_saved,
    "backbone": lambda path: ag.create_backbone(str(path), pretrained=False),
    "predict": lambda path: ag.predict(path, path.parent / "image.png"),
    "explain": lambda path: explain(path, path.parent, out=path.parent / "out"),
    "delta": read_delta,
    "checkpoint": read_checkpoint,
    "predictions": Evaluation.read,
    "store": lambda path: Store.create(path.parent / "store", path),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small grafted model in the format without a seal, whose header a stranger can write as he likes."""
    ag.create_backbone("timm:test_resnet", pretrained=False)  # timm is imported once, before anything is measured
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=3), "cbam", input_size=(3, 32, 32))
    file = ag.save(model, tmp_path_factory.mktemp("honest") / "model.safetensors", classes=["a", "b", "c"])
    ag.load(file)
    return file


def header_of(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as tensors:
        return {**json.loads(tensors.metadata()["attngraft"]), "format": 1}


def forged(honest: Path, folder: Path, change: Callable[[dict[str, Any]], object], **more: torch.Tensor) -> Path:
    """The honest model with another header, and with other tensors."""
    header = header_of(honest)
    change(header)
    file = folder / "model.safetensors"
    save_file({**load_file(honest), **more}, file, {"attngraft": json.dumps(header)})
    return file


def raw(folder: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    """A file with these bytes as its header."""
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return file


def entry(shape: object = (2,), offsets: tuple[int, int] = (0, 2), dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_the_honest_model_is_loaded_from_the_format_without_a_seal(honest, tmp_path):
    # else every refusal below could have another reason
    assert ag.load(forged(honest, tmp_path, lambda header: None)) is not None
    assert outcome(lambda: ag.load(tmp_path)).sentence == ""


# --- pickles ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model.pt", "model.bin", "model.ckpt"])
@pytest.mark.parametrize("writer", ["pickle", "torch", "legacy torch"])
def test_a_pickle_under_any_name_is_refused_by_every_reader_and_never_run(tmp_path, name, writer):
    canary, file = tmp_path / "ran", tmp_path / name
    if writer == "pickle":
        file.write_bytes(pickle.dumps({"state_dict": Boom(canary)}))
    else:
        torch.save({"weights": Boom(canary)}, file, _use_new_zipfile_serialization=writer == "torch")
    readers = [partial(read, file) for read in READERS.values()]
    assert_refused(*readers, lambda: ag.create_backbone("small-cnn", weights=file))
    assert not canary.exists()


def test_the_canary_would_be_written_by_a_reader_that_runs_code(tmp_path):
    pickle.loads(pickle.dumps(Boom(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["run.json", "comparison.json", "store.json", "history.json", "explanation.json"])
def test_a_pickle_named_like_a_document_is_refused_and_never_run(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Boom(tmp_path / "ran")))
    readers = (ag.load, Store.open, write_report, lambda folder: RunFolder(folder).read())
    assert_refused(*(partial(read, tmp_path) for read in readers))
    assert not (tmp_path / "ran").exists()


# --- headers ---------------------------------------------------------------------------------------------------------
MANY = (
    b"{"
    + b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % number for number in range(250_000))
    + b"}"
)
HEADERS: dict[str, tuple[bytes, bytes, int | None]] = {
    "longer than can be counted": (b"{}", b"", 2**64 - 1),
    "2**63 bytes": (b"{}", b"", 2**63),
    "10 GB": (b"{}", b"", 10**10),
    "99 MB of JSON": (b'{"a":"' + b"x" * 99_000_000 + b'"}', b"", None),
    "deep lists": (b"[" * 15_000_000, b"", None),
    "deep objects": (b'{"a":' * 3_000_000, b"", None),
    "many tensors": (MANY, b"", None),
    "the same name twice": (b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), b"12", None),
    "overlapping": (json.dumps({"a": entry(), "b": entry((2,), (1, 3))}).encode(), b"123", None),
    "out of range": (json.dumps({"a": entry((200,), (0, 200))}).encode(), b"123", None),
    "backwards": (json.dumps({"a": entry((2,), (2, 0))}).encode(), b"12", None),
    "a negative shape": (json.dumps({"a": entry((-2,))}).encode(), b"12", None),
    "a shape that overflows": (json.dumps({"a": entry((2**62, 2**62), dtype="F32")}).encode(), b"12", None),
    "an unknown type": (json.dumps({"a": entry(dtype="X9")}).encode(), b"12", None),
    "NaN": (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,2]}}', b"12", None),
    "no UTF-8": (b'{"\xff":{}}', b"", None),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_hostile_header_is_refused_at_once(tmp_path, case):
    header, body, length = HEADERS[case]
    file = raw(tmp_path, header, body, length)
    readers = (ag.load, Evaluation.read, lambda path: ag.create_backbone("small-cnn", weights=path))
    assert_refused(*(partial(read, file) for read in readers))


def test_pipes_devices_and_loops_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    readers = (
        *(ag.load, read_checkpoint, Evaluation.read, read_delta),
        lambda path: ag.create_backbone("small-cnn", weights=path),
    )
    for name in ("pipe", "loop", "zero"):
        assert_refused(*(partial(read, tmp_path / f"{name}.safetensors") for read in readers))
    os.mkfifo(tmp_path / "run.json")
    assert_refused(lambda: RunFolder(tmp_path).read())


# --- what the header describes ---------------------------------------------------------------------------------------
def in_backbone(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["backbone"].update(values)


def in_plan(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["plan"].update(values)


def in_site(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["plan"]["sites"][0].update(values)


def in_preprocessing(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: (header["preprocessing"].update(values), header["backbone"]["preprocessing"].update(values))


DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a hub": in_backbone(spec="timm:hf-hub:evil/model"),
    "a hub behind a tag": in_backbone(spec="timm:resnet18.hf-hub:evil/model"),
    "a local folder": in_backbone(spec="timm:local-dir:/etc"),
    "a path behind a tag": in_backbone(spec="timm:resnet18./../etc/passwd\n\x1b[2J"),
    "a path of torchvision": in_backbone(spec="torchvision:../x"),
    "an attribute of torchvision": in_backbone(spec="torchvision:__loader__"),
    "no spec": in_backbone(spec=""),
    "a giant": in_backbone(spec="timm:regnety_2560"),
    "another giant": in_backbone(spec="timm:eva_giant_patch14_560"),
    **{f"{n:.0e} classes": in_backbone(num_classes=n) for n in (10**9, 10**18, 10**30)},
    "minus one class": in_backbone(num_classes=-1),
    **{
        f"a kernel of {k}": in_plan(options={"kernel_size": k})
        for k in (10**5 + 1, 10**9 + 1, 2**70 + 1, -3, 0, 2.5, "x", None, [3], float("nan"))
    },
    **{
        f"a reduction of {r}": in_plan(options={"reduction": r})
        for r in (1e-9, 0, -1, "x", None, 10**30, float("inf"), True)
    },
    "an option of another kind": in_plan(options={"__class__": 1}),
    "an attention that is none": in_plan(attention="__class__"),
    "a site that is a path": in_site(path="../../x"),
    "a site that is an attribute": in_site(path="__class__"),
    "a site that is the network": in_site(path=""),
    "a site of ten million letters": in_site(path="x" * 10_000_000),
    "10**12 channels": in_site(channels=10**12),
    "an input of 10**18 pixels": in_plan(input_size=[3, 10**9, 10**9]),
    "an input of no pixels": in_plan(input_size=[3, 0, -1]),
    "each site twice": lambda header: header["plan"]["sites"].extend(header["plan"]["sites"]),
    "many sites": lambda header: header["plan"].update(
        sites=[{**header["plan"]["sites"][0], "reason": ""} for _ in range(90_000)]
    ),
    "many overrides": in_plan(overrides={f"x{n}": {"attention": "cbam"} for n in range(100_000)}, format=2),
    "one class name too few": lambda header: header.update(classes=["a", "b"]),
    "class names that are none": lambda header: header.update(classes=[1, None, [2]]),
    "images of 10**9 pixels a side": in_preprocessing(image_size=10**9),
    "a standard deviation of 0": in_preprocessing(std=[0, 1, 1]),
    "a crop to nothing": in_preprocessing(crop_pct=1e-9),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_a_header_that_describes_something_else_is_refused_at_once(honest, tmp_path, case):
    file = forged(honest, tmp_path, DESCRIPTIONS[case])
    assert_refused(lambda: ag.load(file))


@pytest.mark.parametrize("spec", ["the honest one", "itself", "its folder"])
def test_a_header_that_names_another_file_is_refused_before_that_is_opened(honest, tmp_path, spec):
    path = {"the honest one": honest, "itself": tmp_path / "model.safetensors", "its folder": tmp_path}[spec]
    file = forged(honest, tmp_path, in_backbone(spec=str(path)))
    assert "as its backbone, another file" in assert_refused(lambda: ag.load(file))


WEIGHTS = {
    "a name that is a path": {"../../etc/passwd\n\x1b[2J": torch.zeros(1)},
    "a wrong shape": {"head.weight": torch.zeros(3, 999)},
    "a head of nothing": {"head.weight": torch.zeros(3, 0)},
    "integers": {"head.weight": torch.zeros(3, 128, dtype=torch.int8)},
    "complex numbers": {"head.weight": torch.zeros(3, 128, dtype=torch.complex64)},
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_do_not_fit_are_refused_in_one_line(honest, tmp_path, case):
    file = forged(honest, tmp_path, lambda header: None, **WEIGHTS[case])
    assert "do not fit the model" in assert_refused(lambda: ag.load(file))


def test_a_class_name_of_ten_megabytes_is_only_long(honest, tmp_path):
    file = forged(honest, tmp_path, lambda header: header.update(classes=["x" * 10_000_000, "b", "c"]))
    found = outcome(lambda: ag.load(file))
    assert found.sentence == ""
    assert_cheap(found)


# --- documents -------------------------------------------------------------------------------------------------------
DOCUMENTS = {
    "deep lists": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 1_000_000,
    "many small values": b"[" + b"{}," * 9_000_000 + b"1]",
    "a long number": b"9" * 5_000_000,
    "no UTF-8": b'{"kind": "\xff"}',
    "a lone surrogate": b'"\\ud800"',
    "nothing": b"",
    "NaN": b"NaN",
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_hostile_document_is_refused_at_once(tmp_path, case):
    for name in ("run.json", "comparison.json", "store.json", "bench.json"):
        (tmp_path / name).write_bytes(DOCUMENTS[case])
    readers = (ag.load, Store.open, write_report, lambda folder: RunFolder(folder).read())
    assert_refused(*(partial(read, tmp_path) for read in readers))


def test_a_document_of_gigabytes_is_refused_by_its_size(tmp_path):
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(8 << 30)  # takes no space
    assert "bytes, more than" in assert_refused(lambda: read_json(tmp_path / "run.json"))


def test_a_head_of_gigabytes_is_refused(tmp_path):
    store = Store.create(tmp_path / "store", ag.create_backbone("small-cnn", num_classes=3))
    with (store.path / "HEAD").open("wb") as file:
        file.truncate(8 << 30)
    assert "holds" in assert_refused(lambda: ag.load(store.path))


# --- folders that were copied by half --------------------------------------------------------------------------------
def test_a_store_with_any_file_cut_short_or_gone_is_read_or_refused_in_one_line(tmp_path):
    model = ag.create_backbone("small-cnn", num_classes=3)
    store = Store.create(tmp_path / "store", model)
    model.head.bias.data += 1
    with store.writing():
        store.promote(store.add(model, parent=store.base).id)
    files = [path for path in store.path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        kept = path.read_bytes()
        for part in (None, len(kept) // 2):
            path.unlink()
            if part is not None:
                path.write_bytes(kept[:part])
            readers = (ag.load, lambda folder: Store.open(folder).versions())
            for found in outcomes([partial(read, store.path) for read in readers]):
                assert found.sentence == "" or found.sentence.isprintable()
            path.write_bytes(kept)
    assert ag.load(store.path) is not None


def test_images_of_a_store_with_a_hostile_description_are_refused(tmp_path):
    raw(tmp_path, b"{}", length=2**63).rename(tmp_path / "images.safetensors")
    (tmp_path / "pixels.u8").write_bytes(b"")
    assert_refused(lambda: unpack(tmp_path))


def test_predictions_that_lie_about_their_numbers_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "image.png")
    save_file({"probabilities": torch.zeros(3, 2), "labels": torch.zeros(4).long()}, tmp_path / "p.safetensors")
    assert_refused(lambda: Evaluation.read(tmp_path / "p.safetensors"))
