"""Grafts without their backbone: a small file, put onto the same backbone and refused by every other."""

import copy

import pytest
import torch
from grafting_helpers import image_batch, settle_, stir_grafts_
from own_networks import FunctionalResNet

import attngraft as ag
from attngraft.errors import ConfigError, GraftError, RunError
from attngraft.surgery import check_live, classes_of, graft_plan, note_classes_

SIZE = (3, 32, 32)


def plain(seed=0):
    torch.manual_seed(seed)
    return settle_(FunctionalResNet()).eval()


def grown_on(model):
    return stir_grafts_(ag.graft(model, "cbam:reduction=4", input_size=SIZE))


@torch.no_grad()
def test_saved_grafts_give_the_same_network_on_the_same_backbone(tmp_path):
    x, grown = image_batch(2, *SIZE), grown_on(plain())
    file = ag.save(grown, tmp_path / "grafts.safetensors", only="grafts")
    assert file.stat().st_size < ag.save(grown, tmp_path / "all.safetensors").stat().st_size
    model = plain()
    assert ag.load_grafts_(model, file) is model
    assert torch.equal(model(x), grown(x))
    assert graft_plan(model) == graft_plan(grown)
    check_live(model)


@torch.no_grad()
def test_a_head_that_was_trained_with_them_goes_along(tmp_path):
    x, grown = image_batch(2, *SIZE), note_classes_(grown_on(plain()), list("abcd"))
    grown.head.weight += 1
    with pytest.raises(GraftError, match=r"1 of \d+ tensors differ, 'head.weight'"):
        ag.load_grafts_(plain(), ag.save(grown, tmp_path / "grafts.safetensors", only="grafts"))
    model = ag.load_grafts_(plain(), ag.save(grown, tmp_path / "both.safetensors", only="grafts+head"))
    assert torch.equal(model(x), grown(x))
    assert classes_of(model) == tuple("abcd")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: plain(1), "saved with other weights of this network"),
        (lambda: settle_(FunctionalResNet(styles=("operator",))), "belong to another network"),
        (lambda: ag.graft(plain(), "se", input_size=SIZE), "has grafts already"),
        (lambda: "resnet18", "got str as the model"),
    ],
    ids=["weights", "network", "grafted", "name"],
)
def test_another_backbone_is_refused_and_stays_as_it_is(tmp_path, model, words):
    file, other = ag.save(grown_on(plain()), tmp_path / "grafts.safetensors", only="grafts"), model()
    before = copy.deepcopy(other.state_dict()) if isinstance(other, torch.nn.Module) else {}
    with pytest.raises(GraftError, match=words):
        ag.load_grafts_(other, file)
    if before:
        assert list(other.state_dict()) == list(before)
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_counters_of_batches_do_not_make_another_backbone(tmp_path):
    file, model = ag.save(grown_on(plain()), tmp_path / "grafts.safetensors", only="grafts"), plain()
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer += 7
    assert ag.grafts(ag.load_grafts_(model, file))


def test_damaged_and_other_files_are_refused(tmp_path):
    grown, model = grown_on(plain()), plain()
    file = ag.save(grown, tmp_path / "grafts.safetensors", only="grafts")
    with pytest.raises(
        RunError, match=r"holds grafts alone: put them onto their backbone with attngraft\.load_grafts_"
    ):
        ag.load(file)
    whole = ag.save(grown, tmp_path / "whole.safetensors")
    with pytest.raises(RunError, match="holds no grafts alone"):
        ag.load_grafts_(model, whole)
    with pytest.raises(RunError, match="there is no"):
        ag.load_grafts_(model, tmp_path / "missing.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="changed after it was written"):
        ag.load_grafts_(model, file)
    assert ag.grafts(model) == {}


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(GraftError, match="no grafts to save"):
        ag.save(plain(), tmp_path / "none.safetensors", only="grafts")
    with pytest.raises(ConfigError, match="only is 'head': expected grafts or"):
        ag.save(grown_on(plain()), tmp_path / "head.safetensors", only="head")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["own.pth", "own.PT", "own.ckpt", "own.onnx", "folder/own.bin"])
def test_a_name_that_promises_another_kind_of_file_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"attngraft writes safetensors: name it own\.safetensors"):
        ag.save(plain(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_a_network_that_was_compiled_before_runs_the_grafts(tmp_path):
    x, grown = image_batch(2, *SIZE), grown_on(plain())
    file = ag.save(grown, tmp_path / "grafts.safetensors", only="grafts")
    compiled = torch.compile(plain(), backend="eager")
    before = compiled(x)
    assert ag.load_grafts_(compiled, file) is compiled
    torch.testing.assert_close(compiled(x), grown(x))
    assert (compiled(x) - before).abs().max() > 1e-3
