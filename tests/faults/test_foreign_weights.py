"""Weights from elsewhere: the field's habits are understood, attacks are refused, and the run says where it began."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from refusing import Boom, assert_refused
from safetensors.torch import save_file
from sealed import flip_bit
from torch import nn
from training_helpers import PLAIN, coloured_squares, short_recipe
from typer.testing import CliRunner

import attngraft as ag
from attngraft.backbones import backbone_info, safe_pickle
from attngraft.cli import app
from attngraft.errors import BackboneError, RunError

SPEC = "small-cnn"


@pytest.fixture(scope="module")
def source() -> nn.Module:
    torch.manual_seed(7)
    return ag.create_backbone(SPEC, num_classes=5, pretrained=False)


@pytest.fixture(scope="module")
def state(source: nn.Module) -> dict[str, torch.Tensor]:
    return dict(source.state_dict())


def body(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith("head")}


def assert_body(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, value in body(model).items():
        assert torch.equal(value, state[name]), name


def said(model: nn.Module) -> str:
    info = backbone_info(model)
    assert info is not None
    return info.weights


# --- what is understood ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors"])
def test_a_state_dict_comes_in_whole_and_the_model_says_where_from(tmp_path, state, suffix):
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    model = ag.create_backbone(SPEC, num_classes=5, weights=file, pretrained=False)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert said(model) == f"weights{suffix} (sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}...)"
    assert model.training


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state", "state_dict_ema", "model_ema", "ema"])
def test_a_state_dict_within_a_checkpoint_is_found(tmp_path, source, state, key):
    optimizer = torch.optim.AdamW(source.parameters())
    extras = {"epoch": 3, "optimizer": optimizer.state_dict(), "best": 0.5, "arch": "x", "done": None, "n": 2**70}
    torch.save({**extras, key: OrderedDict(state)}, tmp_path / "w.pth")
    model = ag.create_backbone(SPEC, num_classes=5, weights=tmp_path / "w.pth", pretrained=False)
    assert_body(model, state)
    assert f"its '{key}'" in said(model)


def test_averaged_weights_come_before_plain_ones(tmp_path, state):
    other = {name: value + 1 for name, value in state.items()}
    torch.save({"state_dict": other, "state_dict_ema": state}, tmp_path / "w.pth")
    assert_body(ag.create_backbone(SPEC, num_classes=5, weights=tmp_path / "w.pth", pretrained=False), state)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "backbone.", "_orig_mod.", "module._orig_mod.", "model.backbone."]
)
def test_prefixes_of_wrappers_are_taken_off(tmp_path, state, prefix):
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "w.pth")
    assert_body(ag.create_backbone(SPEC, num_classes=5, weights=tmp_path / "w.pth", pretrained=False), state)


def test_two_entries_for_one_layer_are_refused(tmp_path, state):
    torch.save({**state, **{f"module.{name}": value + 1 for name, value in state.items()}}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"several networks|two entries for one layer|in addition"):
        ag.create_backbone(SPEC, num_classes=5, weights=tmp_path / "w.pth", pretrained=False)


@pytest.mark.parametrize("head", ["of another size", "missing"])
def test_another_head_is_left_out_and_said(tmp_path, state, head):
    kept = state if head == "of another size" else {k: v for k, v in state.items() if not k.startswith("head")}
    torch.save(kept, tmp_path / "w.pth")
    torch.manual_seed(0)
    fresh = ag.create_backbone(SPEC, num_classes=3, pretrained=False)
    torch.manual_seed(0)
    model = ag.create_backbone(SPEC, num_classes=3, weights=tmp_path / "w.pth", pretrained=False)
    assert_body(model, state)
    assert said(model).endswith("; without its head)")
    assert torch.equal(model.head.weight, fresh.head.weight)


def test_half_precision_and_counters_that_are_missing_are_taken(tmp_path, state):
    torch.save({k: v.half() for k, v in state.items() if "num_batches" not in k}, tmp_path / "w.pth")
    model = ag.create_backbone(SPEC, num_classes=5, weights=tmp_path / "w.pth", pretrained=False)
    assert torch.equal(model.head.weight, state["head.weight"].half().float())


@pytest.mark.parametrize("spec", ["timm:test_resnet", "torchvision:squeezenet1_1", "timm:test_vit"])
def test_weights_of_other_libraries_go_the_same_way(tmp_path, spec):
    model = ag.create_backbone(spec, num_classes=4, pretrained=False)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.ckpt")
    for classes in (4, 6):
        again = ag.create_backbone(spec, num_classes=classes, weights=tmp_path / "w.ckpt", pretrained=False)
        same = [
            torch.equal(v, again.state_dict()[k])
            for k, v in model.state_dict().items()
            if v.shape == again.state_dict()[k].shape
        ]
        assert all(same)
        assert (len(same) == len(model.state_dict())) == (classes == 4)


# --- where it is taken -----------------------------------------------------------------------------------------------
def test_a_run_says_where_it_started_and_other_weights_are_another_run(tmp_path, state):
    data = coloured_squares()
    torch.save(state, tmp_path / "w.pth")

    def begin(folder: str) -> Any:
        model = ag.create_backbone(SPEC, num_classes=3, weights=tmp_path / "w.pth", pretrained=False)
        return ag.fit(model, data, recipe=short_recipe(1), run_dir=tmp_path / folder, image_size=16, **PLAIN)

    begin("run")
    described = json.loads((tmp_path / "run" / "run.json").read_text())["weights"]
    assert described.startswith("w.pth (sha256 ")
    assert str(tmp_path) not in described
    torch.save({name: value * 2 for name, value in state.items()}, tmp_path / "w.pth")
    with pytest.raises(RunError, match="another weights"):
        begin("run")


def test_a_comparison_starts_all_its_runs_from_the_weights(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")

    def begin() -> Any:
        return ag.compare(
            coloured_squares(), backbone=SPEC, attentions="simam", seeds=1, recipe=short_recipe(1),
            weights=tmp_path / "w.pth", run_dir=tmp_path / "cmp", image_size=16, **PLAIN,
        )  # fmt: skip

    document = begin().document
    runs = [json.loads(path.read_text())["weights"] for path in (tmp_path / "cmp").glob("runs/*/*/run.json")]
    assert len(runs) == 2
    assert {*runs, document["weights"]} == {document["weights"]}
    assert document["weights"].startswith("w.pth (sha256 ")
    torch.save({name: value * 2 for name, value in state.items()}, tmp_path / "w.pth")
    with pytest.raises(RunError, match="another weights"):
        begin()


@pytest.mark.parametrize("verb", ["fit", "compare", "iterate"])
def test_each_verb_that_takes_a_backbone_to_train_takes_weights(tmp_path, verb):
    (tmp_path / "w.pth").write_bytes(b"nonsense")
    more = {
        "fit": ["--run-dir", "r"],
        "compare": ["--run-dir", "r"],
        "iterate": ["--until", "top1>=50%", "--budget", "9s", "--out", "r"],
    }
    if verb == "iterate":
        pytest.importorskip("optuna")
    where = [str(tmp_path / "r") if word == "r" else word for word in more[verb]]
    arguments = [verb, "cluttered-digits", "--backbone", SPEC, "--limit", "20", "--weights", str(tmp_path / "w.pth")]
    result = CliRunner().invoke(app, [*arguments, *where, "--epochs", "1", "--recipe", "one-cycle"])
    assert result.exit_code == 2
    assert "w.pth is not a zip as torch.save writes it" in result.stderr.replace("\n", " ")


def test_two_starts_are_one_too_many(tmp_path, source, state):
    torch.save(state, tmp_path / "w.pth")
    ag.save(source, tmp_path / "run")
    with pytest.raises(BackboneError, match="and also published weights"):
        ag.create_backbone("timm:test_resnet", pretrained=True, weights=tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="and also the run"):
        ag.create_backbone(str(tmp_path / "run"), weights=tmp_path / "w.pth", pretrained=False)


# --- what is refused -------------------------------------------------------------------------------------------------
def broken(state: dict[str, torch.Tensor], case: str) -> tuple[Any, str]:
    """Something to save, and what the refusal says."""
    nan = torch.full_like(state["block1.0.weight"], float("nan"))
    shape = state["block1.0.weight"].shape
    lacking = {name: value for name, value in state.items() if not name.startswith("block2")}
    return {
        "a layer is missing": (lacking, "lacks 'block2.0.weight', 'block2.1.bias', 'block2.1.running_mean' and"),
        "another one": ({**state, "extra\n\x1b[2J": nan}, r"has in addition 'extra \x1b[2J'"),
        "half a head": ({k: v for k, v in state.items() if k != "head.bias"}, "lacks 'head.bias'"),
        "a head of other features": (
            state | {"head.weight": torch.zeros(7, 9), "head.bias": torch.zeros(7)},
            "has the shape (7,",
        ),
        "another shape": (state | {"block1.0.weight": torch.zeros(1)}, "has the shape (1,), expected (32, 3, 3, 3)"),
        "NaN": (state | {"block1.0.weight": nan}, "is not finite"),
        "infinity": (state | {"block1.1.running_var": torch.full((32,), torch.inf)}, "is not finite"),
        "integers": (state | {"block1.0.weight": torch.zeros(shape, dtype=torch.int64)}, "is of the type torch.int64"),
        "complex numbers": (state | {"block1.0.weight": torch.zeros(shape, dtype=torch.complex64)}, ""),
        "a sparse tensor": (state | {"block1.0.weight": torch.zeros(shape).to_sparse()}, "_rebuild_sparse_tensor"),
        "a tensor without storage": (state | {"block1.0.weight": torch.zeros(shape, device="meta")}, "_rebuild_meta"),
        "a whole model": (SimpleHolder(), "SimpleHolder"),
        "a list": ([state], "no state dict"),
        "no tensors": ({"epoch": 3}, "which is no tensor"),
        "nothing": ({}, "holds nothing"),
        "bytes": ({"x": bytearray(10)}, "bytearray"),
        "names that are numbers": ({1: nan}, "which is no tensor"),
        "itself": (cyclic(), "which is no tensor"),
    }[case]


class SimpleHolder(nn.Module):
    """A module of this file, which a reader of pickles would import."""


def cyclic() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["state_dict"] = found
    return found


CASES = (
    "a layer is missing", "another one", "half a head", "a head of other features", "another shape", "NaN", "infinity", "integers",
    "complex numbers", "a sparse tensor", "a tensor without storage", "a whole model",
    "a list", "no tensors", "nothing", "bytes", "names that are numbers", "itself",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_refused_with_names(tmp_path, state, case):
    content, expected = broken(state, case)
    torch.save(content, tmp_path / "w.pth")
    sentence = assert_refused(
        lambda: ag.create_backbone(SPEC, num_classes=5, weights=tmp_path / "w.pth", pretrained=False)
    )
    assert expected in sentence


def test_a_refusal_leaves_no_half_filled_model(tmp_path, state):
    from attngraft.backbones.load_weights import load_weights_

    model = ag.create_backbone(SPEC, num_classes=5, pretrained=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(state | {"head.bias": torch.full((5,), torch.nan)}, tmp_path / "w.pth")  # the last tensor
    with pytest.raises(BackboneError, match="not finite"):
        load_weights_(model, tmp_path / "w.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- what attacks ----------------------------------------------------------------------------------------------------
def archive(path: Path, pickled: bytes, entries: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A zip as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in {
            "w/data.pkl": pickled,
            "w/version": b"3\n",
            **(entries or {"w/data/0": bytes(16)}),
        }.items():
            file.writestr(name, content)
    return path


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def tensor(numel: int = 4, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0) -> bytes:
    """The pickle of {"w": tensor} with any numbers in it."""
    sizes, strides = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    storage = (
        b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(numel)
        + b"tQ"
    )
    head, tail = (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n",
        b"\x89ccollections\nOrderedDict\n)RtRs.",
    )
    return head + storage + number(offset) + sizes + strides + tail


def calls(name: bytes, argument: bytes) -> bytes:
    return b"\x80\x02c" + name + b"\n" + argument + b"\x85R."


PICKLES = {
    "a command": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "a stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "an instance": b"(ios\nsystem\n.",
    "an object": b"\x80\x02cbuiltins\nobject\n)\x81.",
    "gigabytes of zeros": calls(b"builtins\nbytearray", number(10**10)),
    "a tensor of gigabytes": calls(b"torch\nFloatTensor", number(10**10)),
    "a storage of gigabytes": calls(b"torch.storage\nUntypedStorage", number(10**10)),
    "a named storage called": calls(b"torch\nFloatStorage", number(10**10)),
    "copies of a list": b"\x80\x02]q\x00(" + b"K\x01" * 50_000 + b"e0ccollections\nOrderedDict\nq\x01"
    + b"h\x01h\x00\x85R0" * 20_000 + b".",
    "a storage that claims more": tensor(numel=10**9, size=(10**9,)),
    "a size that claims more": tensor(size=(10**9,)),
    "a view of gigabytes": tensor(size=(10**9, 10**3), stride=(0, 0)),
    "a negative stride": tensor(size=(2, 2), stride=(-2, 1)),
    "a negative offset": tensor(size=(1,), offset=-4),
    "an offset beyond": tensor(size=(1,), offset=10**12),
    "sizes that overflow": tensor(size=(2**62, 2), stride=(2**62, 1)),
    "a negative storage": tensor(numel=-4),
    "millions of steps": b"\x80\x02" + b"N0" * 200_000 + b".",
    "values without end": b"\x80\x02(" + b"N" * 900_000 + b"t.",
    "a pickle of 20 MB": b"\x80\x02X" + struct.pack("<I", 20_000_000) + b"x" * 20_000_000 + b".",
    "deep lists": b"\x80\x02" + b"(" * 50_000 + b"l" * 50_000 + b".",
    "a memo of everything": b"\x80\x02N" + b"r\xff\xff\xff\x7f" * 100_000 + b".",
    "too little": b"\x80\x02R.",
    "cut off": b"\x80\x02}X\xff",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("case", PICKLES)
def test_a_hostile_pickle_is_refused_at_once(tmp_path, case, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MOST_STEPS", 200_000)
    file = archive(tmp_path / "w.pth", PICKLES[case])
    assert_refused(lambda: ag.create_backbone(SPEC, weights=file, pretrained=False))


def test_the_forged_tensor_is_one_that_torch_reads(tmp_path):
    # else the refusals above could have another reason
    file = archive(tmp_path / "w.pth", tensor())
    assert torch.equal(torch.load(file, weights_only=True)["w"], torch.zeros(4))
    assert "lacks 'block1.0.weight'" in assert_refused(lambda: ag.create_backbone(SPEC, weights=file, pretrained=False))


def test_code_in_a_checkpoint_is_not_run(tmp_path, state):
    torch.save({"state_dict": state, "hook": Boom(tmp_path / "ran")}, tmp_path / "w.pth")
    said = assert_refused(lambda: ag.create_backbone(SPEC, weights=tmp_path / "w.pth", pretrained=False))
    assert "holds more than tensors" in said
    assert not (tmp_path / "ran").exists()


ARCHIVES = {
    "compressed": ({}, {"compression": zipfile.ZIP_DEFLATED}),
    "a path out": ({"../../etc/passwd": b"x"}, {}),
    "an absolute path": ({"/etc/passwd": b"x"}, {}),
    "a path of Windows": ({"w/..\\..\\x": b"x"}, {}),
    "two folders": ({"v/data/0": b"x"}, {}),
    "a program": ({"w/code/x.py": b"import os"}, {}),
    "constants of a program": ({"w/constants.pkl": b"\x80\x02)."}, {}),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_is_none_of_torch_save_is_refused(tmp_path, case):
    entries, options = ARCHIVES[case]
    file = archive(tmp_path / "w.pth", tensor(), {"w/data/0": bytes(16), **entries}, **options)
    assert_refused(lambda: ag.create_backbone(SPEC, weights=file, pretrained=False))


def test_a_bomb_and_a_long_list_of_entries_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w/data.pkl", tensor())
        file.writestr("w/data/0", bytes(200_000_000))
    with zipfile.ZipFile(tmp_path / "many.pth", "w") as file:
        for position in range(40_000):
            file.writestr(f"w/data/{position:080d}", b"")
    words = {"bomb": "is compressed", "many": "lists more files"}
    for name, expected in words.items():
        assert expected in assert_refused(
            lambda path=tmp_path / f"{name}.pth": ag.create_backbone(SPEC, weights=path, pretrained=False)
        )


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + bytes(18), b"\x1f\x8b" + bytes(40)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    files = [tmp_path / f"w{suffix}" for suffix in (".pth", ".safetensors", ".npz", ".h5", "")]
    for file in files:
        file.write_bytes(content)
    others = (tmp_path / "gone.pth", tmp_path)
    assert_refused(*(partial(ag.create_backbone, SPEC, weights=file) for file in (*files, *others)))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path, state, kept):
    for suffix in (".pth", ".safetensors"):
        file = tmp_path / f"w{suffix}"
        save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * kept)])
        assert_refused(lambda path=file: ag.create_backbone(SPEC, num_classes=5, weights=path, pretrained=False))


def test_one_wrong_bit_in_an_archive_is_found(tmp_path: Path) -> None:
    torch.save(ag.create_backbone("small-cnn", num_classes=10).state_dict(), tmp_path / "w.pth.tar")
    ag.create_backbone("small-cnn", num_classes=10, weights=tmp_path / "w.pth.tar")
    flip_bit(tmp_path / "w.pth.tar", bit=4)
    with pytest.raises(BackboneError, match="is damaged"):
        ag.create_backbone("small-cnn", num_classes=10, weights=tmp_path / "w.pth.tar")
