"""A saved model describes itself: it comes back equal, and what cannot be read is refused in one sentence."""

from __future__ import annotations

import json

import pytest
import torch
from grafting_helpers import image_batch, settle_, stir_grafts_
from own_networks import FunctionalResNet, PairNet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import attngraft as ag
from attngraft.backbones import backbone_info
from attngraft.checksums import write_sealed
from attngraft.errors import BackboneError, RunError
from attngraft.surgery import check_live, describe_saved, graft_plan

SIZE = (3, 32, 32)


def build(spec="timm:test_resnet", attention="cbam", classes=5):
    model = settle_(ag.create_backbone(spec, num_classes=classes, pretrained=False)).eval()
    return stir_grafts_(ag.graft(model, attention, input_size=SIZE)) if attention else model


@torch.no_grad()
def logits(model, x=None):
    return model(image_batch(2, *SIZE) if x is None else x)


@pytest.mark.parametrize("attention", [None, "cbam", "simam"])
@pytest.mark.parametrize("spec", ["timm:test_resnet", "small-cnn"])
def test_a_model_comes_back_equal(tmp_path, spec, attention):
    model = build(spec, attention)
    file = ag.save(model, tmp_path / "model.safetensors")
    loaded = ag.load(file)
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert graft_plan(loaded) == graft_plan(model)
    assert backbone_info(loaded) == backbone_info(model)
    check_live(loaded)


def test_a_replaced_convolutional_head_comes_back(tmp_path):
    model = build("torchvision:squeezenet1_1", "se", classes=3)
    x = image_batch(1, 3, 64, 64)
    assert torch.equal(logits(ag.load(ag.save(model, tmp_path)), x), logits(model, x))


def test_a_folder_holds_model_safetensors_and_classes_are_kept(tmp_path):
    file = ag.save(build(), tmp_path / "runs" / "one", classes=["ant", "bee", "Käfer", "dragon fly", "wasp"])
    assert file == tmp_path / "runs" / "one" / "model.safetensors"
    assert describe_saved(file.parent).classes == ("ant", "bee", "Käfer", "dragon fly", "wasp")
    assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]


def test_the_file_is_plain_safetensors_with_a_json_header(tmp_path):
    model = build()
    file = ag.save(model, tmp_path)
    with safe_open(file, framework="pt") as tensors:
        header = json.loads(tensors.metadata()["attngraft"])
    assert header["format"] == 2
    assert header["backbone"]["spec"] == "timm:test_resnet"
    assert header["plan"]["attention"] == "cbam"
    assert load_file(file).keys() == model.state_dict().keys()


def test_saving_replaces_the_old_file(tmp_path):
    ag.save(build(attention=None), tmp_path)
    model = build()
    ag.save(model, tmp_path)
    assert torch.equal(logits(ag.load(tmp_path)), logits(model))


def test_half_precision_and_channels_last_come_back_as_they_were(tmp_path):
    model = build().to(torch.bfloat16).to(memory_format=torch.channels_last)
    loaded = ag.load(ag.save(model, tmp_path))
    assert {t.dtype for t in loaded.state_dict().values()} == {t.dtype for t in model.state_dict().values()}
    x = image_batch(2, *SIZE).bfloat16()
    assert torch.equal(logits(loaded, x), logits(model.to(memory_format=torch.contiguous_format), x))


def test_a_compiled_model_is_saved_as_the_model_inside(tmp_path):
    model = build()
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(logits(ag.load(ag.save(compiled, tmp_path))), logits(model))


def test_tied_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[1].weight = model[0].weight
    loaded = ag.load(ag.save(model, tmp_path), backbone=nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)))
    assert torch.equal(loaded[1].weight, model[0].weight)


def test_a_model_of_ones_own_needs_an_instance(tmp_path):
    model = stir_grafts_(ag.graft(FunctionalResNet().eval(), "cbam", input_size=SIZE))
    ag.save(model, tmp_path)
    with pytest.raises(BackboneError, match=r"attngraft did not create: give load\(\.\.\., backbone=your_model\)"):
        ag.load(tmp_path)
    fresh = FunctionalResNet()
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    assert torch.equal(logits(ag.load(tmp_path, backbone=fresh)), logits(model))
    assert ag.grafts(fresh) == {}
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())


def test_a_model_with_another_kind_of_input_needs_an_example(tmp_path):
    images = (image_batch(2, 3, 16, 16), image_batch(2, 3, 16, 16, seed=1))
    model = stir_grafts_(ag.graft(PairNet().eval(), "cbam", example_input=images))
    ag.save(model, tmp_path)
    loaded = ag.load(tmp_path, backbone=PairNet(), example_input=images)
    assert torch.equal(loaded(*images)["logits"], model(*images)["logits"])
    assert_refused(tmp_path, "do not fit the backbone: .*example_input", backbone=PairNet())


def test_loading_draws_no_random_numbers_of_the_backbone(tmp_path):
    ag.save(build(attention=None), tmp_path)
    state = torch.get_rng_state()
    ag.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def assert_refused(path, message, **options):
    with pytest.raises(RunError, match=message) as caught:
        ag.load(path, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    assert_refused(tmp_path / "nothing.safetensors", "there is no .*nothing.safetensors: give a run folder")
    assert_refused(tmp_path, "there is no .*model.safetensors: give a run folder")


def test_a_folder_named_like_a_file_is_refused(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    assert_refused(tmp_path / "folder.safetensors", r"folder\.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello", b"just some text, and quite a bit of it\n" * 100])
def test_a_text_file_is_refused(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert_refused(file, "is not a safetensors file or is damaged")


def test_a_pickle_is_refused_and_never_run(tmp_path):
    # a file that torch.load(weights_only=False) would have executed
    class Boom:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"weights": Boom()}, tmp_path / "model.safetensors")
    assert_refused(tmp_path, "is not a safetensors file or is damaged")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kept", [0.2, 0.9, 0.9999])
def test_a_truncated_file_is_refused(tmp_path, kept):
    file = ag.save(build(), tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    assert_refused(file, "is damaged|was changed after it was written")


def test_a_file_of_another_library_is_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert_refused(tmp_path, "was not written by attngraft")


def rewrite(file, change=lambda header: header, tensors=None, text=None):
    """The same file with another header, or with other tensors, sealed as if it had been written so."""
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["attngraft"])
    change(header)
    tensors = load_file(file) if tensors is None else tensors
    metadata = {"attngraft": json.dumps(header) if text is None else text}
    write_sealed(file, lambda temporary, sealed: save_file(tensors, temporary, sealed), metadata)
    return file


def test_a_newer_format_is_refused(tmp_path):
    file = rewrite(ag.save(build(), tmp_path), lambda header: header.update(format=3, written_by="9.1.0"))
    assert_refused(
        file, r"has format 3, written by attngraft 9\.1\.0; this is .* reads 1 and 2: install attngraft 9\.1\.0"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"format": 1}', "[" * 100_000])
def test_a_header_that_is_not_ours_is_refused(tmp_path, text):
    assert_refused(rewrite(ag.save(build(), tmp_path), text=text), "the header of .* cannot be read")


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": [1]},
        {"plan": {"attention": "se"}},
        {"backbone": 3},
        {"backbone": {"spec": "small-cnn"}},
        {"classes": 3},
        {"plan": {"attention": "se", "sites": [3]}},
    ],
)
def test_a_header_with_junk_inside_is_refused(tmp_path, changes):
    file = rewrite(ag.save(build(), tmp_path), lambda header: header.update(changes))
    assert_refused(file, "the header of .* cannot be read")


def test_a_plan_that_does_not_fit_is_refused(tmp_path):
    def widen(header):
        header["plan"]["sites"][0]["channels"] += 1

    assert_refused(rewrite(ag.save(build(), tmp_path), widen), "the grafts in .* do not fit the backbone: .*channels")


def test_an_attention_that_this_version_does_not_know_is_refused(tmp_path):
    file = rewrite(ag.save(build(), tmp_path), lambda header: header["plan"].update(attention="cbam-2"))
    assert_refused(file, "do not fit the backbone: unknown attention 'cbam-2': did you mean 'cbam'")


def test_another_backbone_is_refused(tmp_path):
    ag.save(ag.graft(FunctionalResNet(), "se", input_size=SIZE), tmp_path)
    assert_refused(tmp_path, "do not fit the backbone", backbone=nn.Sequential(nn.Conv2d(3, 4, 3)))
    ag.save(FunctionalResNet(), tmp_path)
    assert_refused(tmp_path, "the weights in .* do not fit the model", backbone=nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_missing_weights_are_refused(tmp_path):
    file = ag.save(build(), tmp_path)
    tensors = load_file(file)
    del tensors["fc.weight"]
    assert_refused(rewrite(file, tensors=tensors), r"the weights in .* do not fit .*Missing key.*fc\.weight")


def test_a_disk_that_cannot_be_written_is_a_run_error(tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(RunError, match="cannot be written"):
        ag.save(build(), tmp_path / "taken" / "model.safetensors")


def test_a_run_is_a_backbone_with_another_head(tmp_path):
    model = build()
    ag.save(model, tmp_path, classes=list("abcde"))
    same = ag.create_backbone(str(tmp_path), pretrained=False)
    assert torch.equal(logits(same.eval()), logits(model))
    other = ag.create_backbone(str(tmp_path), num_classes=3, pretrained=False)
    assert logits(other.eval()).shape == (2, 3)
    assert list(ag.grafts(other)) == list(ag.grafts(model))
    changed = {key for key, value in other.state_dict().items() if not torch.equal(value, model.state_dict()[key])}
    assert changed == {"fc.weight", "fc.bias"}
    # what is saved next does not depend on this folder
    assert backbone_info(other).spec == "timm:test_resnet"
    second = ag.save(other, tmp_path / "second.safetensors")
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(logits(ag.create_backbone(str(second), pretrained=False).eval()), logits(other))


def test_a_fresh_backbone_is_in_train_mode_wherever_it_comes_from(tmp_path):
    ag.save(build(), tmp_path)
    assert all(
        ag.create_backbone(spec, pretrained=False).training for spec in (str(tmp_path), "small-cnn", "timm:test_resnet")
    )


def test_a_run_of_a_model_of_ones_own_is_no_backbone(tmp_path):
    ag.save(FunctionalResNet(), tmp_path)
    with pytest.raises(BackboneError, match="attngraft did not create"):
        ag.create_backbone(str(tmp_path), pretrained=False)


def test_a_folder_without_a_run_is_no_backbone(tmp_path):
    with pytest.raises(RunError, match=r"there is no .*model\.safetensors"):
        ag.create_backbone(str(tmp_path), pretrained=False)


@pytest.mark.parametrize("spec", ["torchvision:mnasnet0_5", "torchvision:mnasnet1_0"])
def test_layers_that_convert_old_state_take_what_was_saved_for_new(tmp_path, spec):
    grown = ag.graft(ag.create_backbone(spec, num_classes=3, pretrained=False), "se", input_size=(3, 64, 64)).eval()
    restored = ag.load(ag.save(grown, tmp_path / "model.safetensors"))
    assert all(torch.equal(value, restored.state_dict()[key]) for key, value in grown.state_dict().items())
