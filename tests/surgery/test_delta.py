"""A delta holds the tensors whose bits differ from the base, and gives back every bit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from grafting_helpers import settle_, stir_grafts_
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import attngraft as ag
from attngraft.backbones import backbone_info
from attngraft.errors import GraftError, RunError
from attngraft.surgery import find_head, replace_head_
from attngraft.surgery.version_store.delta import (
    apply_delta_,
    count_changed,
    difference,
    read_delta,
    same_bits,
    write_delta,
)

SIZE = (3, 32, 32)
ODD_BITS = (0x00000000, 0x80000000, 0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800001, 0x3F800000)  # zeros, NaNs, one


def build(spec="small-cnn", attention="cbam", classes=4):
    return ag.graft(
        settle_(ag.create_backbone(spec, num_classes=classes, pretrained=False)).eval(), attention, input_size=SIZE
    )


def state_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def from_bits(*bits):
    return torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)


def assert_same_state(model, other):
    wanted = other.state_dict()
    assert list(model.state_dict()) == list(wanted)
    for name, tensor in model.state_dict().items():
        assert same_bits(tensor, wanted[name]), name


def through_a_file(delta, folder):
    return read_delta(write_delta(delta, folder / "delta.safetensors"))


@given(st.lists(st.sampled_from(ODD_BITS), min_size=2, max_size=2))
def test_bits_are_the_same_where_the_words_are(bits):
    one, other = (from_bits(word) for word in bits)
    assert same_bits(one, other) == (bits[0] == bits[1])


def test_type_and_shape_count():
    ones = torch.ones(4)
    assert not same_bits(ones, ones.double())
    assert not same_bits(ones, ones.view(2, 2))
    assert same_bits(ones.view(2, 2).T, ones.view(2, 2).T.contiguous())
    assert same_bits(torch.tensor(3), torch.tensor(3))
    assert not same_bits(torch.tensor(True), torch.tensor(False))


def test_only_what_differs_is_kept_to_the_bit(tmp_path):
    model = build()
    base = copy.deepcopy(model)
    base.block1[1].bias.data[0] = 0.0
    model.block1[1].bias.data[0] = -0.0
    model.block1[1].running_mean[:2] = from_bits(0x7FC00001, 0xFFC00000)
    model.block2[1].num_batches_tracked += 7
    delta = difference(model, state_of(base))
    assert set(delta.tensors) == {"block1.1.bias", "block1.1.running_mean", "block2.1.num_batches_tracked"}
    assert delta.head is None
    assert count_changed(model, delta, state_of(base)) == 1  # statistics and counters are no parameters
    assert_same_state(apply_delta_(base, through_a_file(delta, tmp_path)), model)


@pytest.mark.parametrize("spec", ["small-cnn", "timm:test_resnet", "torchvision:squeezenet1_1"])
def test_added_classes_come_back(tmp_path, spec):
    base = build(spec, "se")
    model = stir_grafts_(copy.deepcopy(base))
    replace_head_(model, 6)
    delta = difference(model, state_of(base))
    (head,) = find_head(model).layers
    assert (delta.head, delta.logits) == (head, 6)
    assert {f"{head}.weight", f"{head}.bias"} <= set(delta.tensors)
    generator = torch.get_rng_state()
    restored = apply_delta_(copy.deepcopy(base), through_a_file(delta, tmp_path)).eval()
    assert torch.equal(torch.get_rng_state(), generator)
    assert_same_state(restored, model)
    assert backbone_info(restored).num_classes == 6
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(restored(images), model.eval()(images))
    assert count_changed(model, delta, state_of(base)) == sum(
        parameter.numel() for name, parameter in model.named_parameters() if name.startswith(head)
    ) + sum(int((p != q).sum()) for p, q in grafts_of(model, base))


def grafts_of(model, base):
    wanted = dict(base.named_parameters())
    return [(p, wanted[name]) for name, p in model.named_parameters() if "graft" in name.split(".")]


def test_a_model_in_half_precision_comes_back_so(tmp_path):
    base = build()
    model = copy.deepcopy(base).to(torch.bfloat16)
    delta = difference(model, state_of(base))
    assert count_changed(model, delta, state_of(base)) == sum(p.numel() for p in model.parameters())
    assert_same_state(apply_delta_(base, through_a_file(delta, tmp_path)), model)


def test_an_equal_model_has_an_empty_delta(tmp_path):
    base = build()
    delta = through_a_file(difference(copy.deepcopy(base), state_of(base)), tmp_path)
    assert delta.tensors == {}
    assert_same_state(apply_delta_(copy.deepcopy(base), delta), base)


def test_equal_deltas_make_equal_files(tmp_path):
    base = build()
    model = stir_grafts_(copy.deepcopy(base))
    files = [write_delta(difference(model, state_of(base)), tmp_path / name) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size < 30_000  # the grafts, not the model
    columns_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert difference(columns_last, state_of(model)).tensors == {}


def test_tied_weights_come_back(tmp_path):
    def tied():
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
        model[1].weight = model[0].weight
        return model

    base, model = tied(), tied()
    assert_same_state(apply_delta_(base, through_a_file(difference(model, state_of(base)), tmp_path)), model)
    assert base[0].weight is base[1].weight


@pytest.mark.parametrize(
    ("attention", "options", "words"),
    [
        ("se", {}, r"only the .* has a tensor 'block.*graft.*not in its grafts or layers\.$"),
        (None, {}, "only the base has a tensor 'block1"),
        ("cbam", {"reduction": 4}, r"has the shape \(\d.*, \(\d.* in the base: .*not in its grafts or layers\.$"),
    ],
)
def test_a_model_that_is_built_otherwise_is_refused(attention, options, words):
    model = ag.create_backbone("small-cnn", num_classes=4)
    if attention is not None:
        ag.graft_(model, attention, input_size=SIZE, **options)
    with pytest.raises(GraftError, match=words):
        difference(model, state_of(build()))


def test_a_lost_graft_is_refused():
    model = build()
    model.block1[2]._forward_hooks.clear()
    with pytest.raises(GraftError, match="not live any more"):
        difference(model, state_of(build()))


def test_another_base_is_refused(tmp_path):
    base = build("timm:test_resnet")
    model = stir_grafts_(copy.deepcopy(base))
    replace_head_(model, 9)
    delta = through_a_file(difference(model, state_of(base)), tmp_path)
    for other in (build("small-cnn"), build("timm:test_resnet", "se")):
        with pytest.raises(RunError, match="does not fit the base of the store"):
            apply_delta_(other, delta)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_damaged_file_is_refused(tmp_path, kept):
    base = build()
    file = write_delta(difference(stir_grafts_(copy.deepcopy(base)), state_of(base)), tmp_path / "delta.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(RunError, match=r"(cannot be read|is damaged).*: restore .* from a copy\."):
        read_delta(file)
    with pytest.raises(RunError, match=r"is not a safetensors file or is damaged|cannot be read"):
        read_delta(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            {"attngraft_delta": json.dumps({"format": 2})},
            "newer attngraft, format 2; this one reads 1: update attngraft",
        ),
        ({"attngraft_delta": "{"}, "cannot be read"),
        ({"attngraft_delta": "[]"}, "cannot be read"),
        ({"attngraft_delta": '{"format": 1}'}, "cannot be read"),
        ({}, "cannot be read"),
    ],
)
def test_what_is_no_delta_is_refused(tmp_path, header, words):
    file = write_delta(difference(build(), state_of(build())), tmp_path / "delta.safetensors")
    save_file(load_file(file), file, header)
    with pytest.raises(RunError, match=words):
        read_delta(file)


def test_a_full_disk_is_a_sentence(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunError, match="cannot be written"):
        write_delta(difference(build(), state_of(build())), tmp_path / "taken" / "delta.safetensors")
