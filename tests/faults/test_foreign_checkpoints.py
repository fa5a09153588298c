"""Checkpoints of other trainers: the weights are found by the names of the network, nothing in the file is run, the rest is said."""

from __future__ import annotations

import argparse
import enum
import pickle
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from refusing import Boom, assert_refused
from safetensors.torch import save_file
from test_foreign_weights import SPEC, assert_body, said
from torch import nn
from torch.optim.swa_utils import AveragedModel

import attngraft as ag
from attngraft.errors import BackboneError

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def source() -> nn.Module:
    torch.manual_seed(7)
    return ag.create_backbone(SPEC, num_classes=5, pretrained=False)


@pytest.fixture(scope="module")
def state(source: nn.Module) -> State:
    return dict(source.state_dict())


def load(file: Path | str, **options: Any) -> nn.Module:
    return ag.create_backbone(SPEC, num_classes=5, weights=file, **options, pretrained=False)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


class Mode(enum.Enum):
    """As trainers have beside the weights."""

    BEST = "best"


class Config:
    """A class that only this file has."""

    def __init__(self) -> None:
        self.lr, self.where, self.names = 0.1, Path("/tmp/x"), ["a"]


class Attributes(dict):
    """A dict whose keys are attributes, as those of many configurations."""


# --- where trainers put them -----------------------------------------------------------------------------------------
KEYS = [
    "model_state_dict",
    "net",
    "network",
    "model_weights",
    "params",
    "backbone",
    "weights",
    "net_state_dict",
    "G",
    "best",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_weights_are_found_under_any_key_and_the_rest_is_said(tmp_path, state, source, key, prefix):
    optimizer = torch.optim.SGD(source.parameters(), lr=0.1, momentum=0.9)
    rest = {"epoch": 3, "optimizer_state_dict": optimizer.state_dict(), "best_acc": torch.tensor(93.0)}
    torch.save({**rest, key: prefixed(state, prefix)}, tmp_path / "w.pth")
    model = load(tmp_path / "w.pth")
    assert_body(model, state)
    assert torch.equal(model.head.weight, state["head.weight"])
    assert f"its '{key}'; not used: 'epoch', 'optimizer_state_dict', 'best_acc')" in said(model)


PREFIXES = [
    *(
        "model.",
        "net.",
        "backbone.",
        "module.model.",
        "model._orig_mod.",
        "encoder.",
        "student.module.",
        "_forward_module.",
    ),
    *("model.backbone.net.", "ema_model.module.", "0."),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_prefixes_of_any_trainer_are_taken_off_and_what_lies_outside_is_said(tmp_path, state, prefix, suffix):
    tensors = {**prefixed(state, prefix), "criterion.weight": torch.ones(3), "queue": torch.ones(2)}
    file = tmp_path / f"w{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": tensors, "pytorch-lightning_version": "2.0", "hyper_parameters": {"lr": 0.1}}, file)
    else:
        save_file(tensors, file)
    model = load(file)
    assert_body(model, state)
    assert "'criterion.weight', 'queue'" in said(model)


def test_wrappers_within_names_are_taken_out(tmp_path, state):
    inside = {name.replace("block2.", "block2.module."): value for name, value in state.items()}
    torch.save({"state_dict": prefixed(inside, "_orig_mod.")}, tmp_path / "w.pth")
    assert_body(load(tmp_path / "w.pth"), state)


def test_an_averaged_model_is_one(tmp_path, source, state):
    torch.save(AveragedModel(source).state_dict(), tmp_path / "w.pth")
    model = load(tmp_path / "w.pth")
    assert_body(model, state)
    assert said(model).endswith("not used: 'n_averaged')")


def test_a_head_beside_the_backbone_is_taken(tmp_path, state):
    names = {name if name.startswith("head") else f"backbone.{name}": value for name, value in state.items()}
    torch.save(names, tmp_path / "w.pth")
    assert torch.equal(load(tmp_path / "w.pth").head.weight, state["head.weight"])


def test_numbers_of_a_counting_program_are_left_out(tmp_path, state):
    torch.save({**state, "total_ops": torch.ones(1), "block1.0.total_params": torch.ones(1)}, tmp_path / "w.pth")
    assert_body(load(tmp_path / "w.pth"), state)


@pytest.mark.parametrize("spec", ["timm:test_resnet", "torchvision:alexnet"])
def test_networks_whose_names_repeat_themselves_are_found(tmp_path, spec):
    model = ag.create_backbone(spec, num_classes=4, pretrained=False)
    wrapped = {name.replace("features.", "features.module."): value for name, value in model.state_dict().items()}
    torch.save({"net": wrapped, "epoch": 1}, tmp_path / "w.pth")
    again = ag.create_backbone(spec, num_classes=4, weights=tmp_path / "w.pth", pretrained=False).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


# --- what lies beside them -------------------------------------------------------------------------------------------
BESIDE: dict[str, Any] = {
    "arguments": argparse.Namespace(lr=0.1, device=torch.device("cpu"), path=Path("x")),
    "a class of its own": Config(),
    "an object": SimpleNamespace(a=1),
    "a number of NumPy": np.float64(0.5),
    "an array of NumPy": np.arange(5),
    "a state of a generator": np.random.default_rng(0).bit_generator.state,
    "a state of torch": torch.get_rng_state(),
    "a date": datetime(2020, 1, 1),
    "a mode": Mode.BEST,
    "a default": defaultdict(list, a=[1]),
    "attributes": Attributes(a=Attributes(b=1)),
    "a sparse tensor": torch.eye(3).to_sparse(),
    "complex numbers": torch.ones(3, dtype=torch.complex64),
    "many kinds": {"x": (1, 2.5, "a", None, True, {3}, frozenset([4]), b"5", 2**70, torch.Size([1]), slice(3))},
    "a size": torch.Size([1, 2]),
    "a type": torch.float16,
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_beside_the_weights_are_passed_over_and_said(tmp_path, state, beside, protocol):
    content = {"args": BESIDE[beside], "state_dict": state, "also": [BESIDE[beside]]}
    torch.save(content, tmp_path / "w.pth", pickle_protocol=protocol)
    model = load(tmp_path / "w.pth")
    assert_body(model, state)
    assert "its 'state_dict'; not used: 'args'" in said(model)


def test_what_an_object_was_is_said(tmp_path, state):
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth")
    assert "not used: 'args' (argparse.Namespace)" in said(load(tmp_path / "w.pth"))


# --- one of several --------------------------------------------------------------------------------------------------
AVERAGED = [
    ("model", "model_ema"),
    ("params", "params_ema"),
    ("net", "ema"),
    ("state_dict", "swa_state_dict"),
    ("model", "ema_model"),
]


@pytest.mark.parametrize(("plain", "averaged"), AVERAGED)
def test_averaged_weights_are_taken_and_the_plain_ones_named(tmp_path, state, plain, averaged):
    torch.save({plain: other(state), averaged: state}, tmp_path / "w.pth")
    model = load(tmp_path / "w.pth")
    assert_body(model, state)
    assert f"its '{averaged}'; not used: '{plain}'" in said(model)
    assert_body(load(tmp_path / f"w.pth:{plain}"), other(state))


SEVERAL: dict[str, Any] = {
    "netG netD": lambda state: {"netG": state, "netD": other(state), "epoch": 1},
    "student teacher": lambda state: {"state_dict": {**prefixed(other(state), "teacher."), **prefixed(state, "student.")}},
    "fold0 fold1": lambda state: {"models": {"fold1": other(state), "fold0": state}},
    "encoder_q encoder_k": lambda state: {
        **prefixed(state, "module.encoder_q."), **prefixed(other(state), "module.encoder_k."), "queue": torch.ones(1),
    },
}  # fmt: skip


@pytest.mark.parametrize("case", SEVERAL)
def test_several_networks_are_named_and_one_is_chosen_by_its_name(tmp_path, state, case):
    first, second = case.split()
    torch.save(SEVERAL[case](state), tmp_path / "w.pth")
    sentence = assert_refused(lambda: load(tmp_path / "w.pth"))
    assert "holds the weights of several networks" in sentence
    assert first in sentence
    assert second in sentence
    assert "say which, as in w.pth:" in sentence
    model = load(f"{tmp_path / 'w.pth'}:{first}")
    assert_body(model, state)
    assert first in said(model)
    assert_body(load(tmp_path / f"w.pth:{second}"), other(state))
    assert "has no weights under 'third': it has" in assert_refused(lambda: load(tmp_path / "w.pth:third"))


def test_another_network_beside_the_right_one_is_no_question(tmp_path, state):
    wrong = {"a.weight": torch.ones(3, 3), "block1.0.weight": torch.ones(2)}
    torch.save({"discriminator": wrong, "generator": state}, tmp_path / "w.pth")
    assert_body(load(tmp_path / "w.pth"), state)


def test_the_same_weights_under_two_keys_are_no_question(tmp_path, state):
    torch.save({"net": state, "last": state, "again": dict(state)}, tmp_path / "w.pth")
    assert_body(load(tmp_path / "w.pth"), state)


def test_a_file_whose_name_has_a_colon_is_a_file(tmp_path, state):
    torch.save(state, tmp_path / "run:3.pth")
    assert said(load(tmp_path / "run:3.pth")).startswith("run:3.pth (")


# --- older and other formats -----------------------------------------------------------------------------------------
def save_old(content: Any, path: Path) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".pkl"])
def test_the_format_before_torch_1_6_is_read(tmp_path, state, suffix):
    content = {
        "state_dict": prefixed(state, "module."),
        "epoch": 2,
        "args": argparse.Namespace(lr=1),
        "best": np.float64(1),
    }
    model = load(save_old(content, tmp_path / f"w{suffix}"))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_views_strides_and_empty_tensors_are_read_in_both_formats(tmp_path):
    base = torch.arange(24.0)
    content = {
        "t": base.view(4, 6).t(),
        "part": base[5:9],
        "none": torch.empty(0, 3),
        "one": base[3],
        "half": base.half(),
    }
    for file in (tmp_path / "zip.pth", tmp_path / "old.pth"):
        torch.save(content, file, _use_new_zipfile_serialization=file.stem == "zip")
        from attngraft.backbones.checkpoint_contents import contents_of
        from attngraft.backbones.torch_files import read_torch_file

        found = contents_of(read_torch_file(file)).dicts[""]
        assert found.keys() == content.keys()
        assert all(torch.equal(found[name].load(), value) for name, value in content.items())


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.999])
def test_an_old_file_that_was_cut_off_is_refused(tmp_path, state, kept):
    data = save_old(state, tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data[: int(len(data) * kept)])
    assert_refused(lambda: load(tmp_path / "w.pth"))


@pytest.mark.filterwarnings("ignore")  # programs are on their way out of PyTorch
def test_the_weights_of_a_program_are_read_without_it(tmp_path, source, state):
    torch.jit.save(torch.jit.trace(source.eval(), torch.zeros(1, 3, 32, 32)), tmp_path / "w.pt")
    assert_body(load(tmp_path / "w.pt"), state)


def test_a_whole_network_is_refused_with_the_way_to_export_it(tmp_path, source):
    for content, inner in ((source, ""), ({"model": source, "epoch": 1}, "['model']")):
        for new in (True, False):
            torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
            sentence = assert_refused(lambda: load(tmp_path / "w.pth"))
            assert "holds a whole network (attngraft.backbones.small_networks." in sentence
            assert f"torch.save(torch.load(FILE, weights_only=False){inner}.state_dict(), NEW)" in sentence


def test_packed_archives_around_weights_have_to_be_unpacked(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    with tarfile.open(tmp_path / "b.pth.tar", "w:gz") as archive:
        archive.add(tmp_path / "w.pth", "w.pth")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.write(tmp_path / "w.pth", "weights/w.pth")
    for name in ("b.pth.tar", "c.pt"):
        assert "is an archive: unpack it" in assert_refused(lambda file=tmp_path / name: load(file))


# --- nothing is run --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_anywhere_in_a_file_is_not_run_and_refused(tmp_path, state, new, protocol):
    boom = Boom(tmp_path / "ran")
    for content in (
        {"state_dict": state, "hook": boom},
        {**state, "x": boom},
        {"a": {"b": [state, (boom,)]}},
        [boom],
        boom,
    ):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new, pickle_protocol=protocol)
        assert "holds more than tensors" in assert_refused(lambda: load(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


class Silent:
    """An object whose pickle calls something that no list of dangers has."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (np.savetxt, (str(self.canary), [1.0]))


def test_what_is_not_known_to_act_is_not_called_either(tmp_path, state):
    torch.save({"state_dict": state, "hook": Silent(tmp_path / "ran")}, tmp_path / "w.pth")
    assert_body(load(tmp_path / "w.pth"), state)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Silent(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_keys_that_are_made_to_be_slow_are_not_compared(tmp_path):
    deep: Any = ()
    for _ in range(60):
        deep = (deep, deep)  # whose hash would take 2**60 steps
    pickled = pickle.dumps(OrderedDict(), 2)[:2] + b"}" + pickle.dumps(deep, 2)[2:-1] + b"K\x01s."
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("w/data.pkl", pickled)
        archive.writestr("w/version", b"3\n")
    assert_refused(lambda: load(tmp_path / "w.pth"))


def test_the_option_takes_a_key_too(tmp_path, state):
    torch.save({"student": state, "teacher": other(state)}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="several networks"):
        load(str(tmp_path / "w.pth"))
    assert_body(load(f"{tmp_path / 'w.pth'}:student"), state)
