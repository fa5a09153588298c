"""Where attention may go: placements, globs and paths, on published and on home-made networks."""

from __future__ import annotations

import pytest
import torch
from cases import slow
from grafting_helpers import as_torchscript
from own_networks import (
    ChainNet,
    CoordinateNet,
    FunctionalResNet,
    FunctionalVGG,
    ListNet,
    PairNet,
    ResidualBlock,
    SharedNet,
)
from torch import nn

import attngraft as ag
from attngraft.errors import GraftError
from attngraft.surgery import search_sites

SMALL = (3, 64, 64)


def paths(model, where="auto", input_size=SMALL, **options):
    return [site.path for site in ag.find_sites(model, where, input_size=input_size, **options)]


@pytest.fixture(scope="module")
def resnet18():
    return ag.create_backbone("torchvision:resnet18", pretrained=False)


@pytest.fixture(scope="module")
def resnet50():
    with torch.device("meta"):  # a search needs no weights, and drawing 25 million of them takes seconds
        return ag.create_backbone("torchvision:resnet50", pretrained=False)


@pytest.fixture(scope="module")
def vgg16():
    with torch.device("meta"):
        return ag.create_backbone("torchvision:vgg16", pretrained=False)


def test_resnet50_has_a_site_at_the_end_of_each_of_its_16_branches(resnet50):
    blocks = [(1, 3), (2, 4), (3, 6), (4, 3)]
    assert paths(resnet50) == [f"layer{stage}.{block}.bn3" for stage, n in blocks for block in range(n)]


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:resnet18"])
def test_resnet18_has_a_site_at_the_end_of_each_of_its_8_branches(spec):
    sites = ag.find_sites(ag.create_backbone(spec, pretrained=False), input_size=SMALL)
    assert [s.path for s in sites] == [f"layer{stage}.{block}.bn2" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [s.channels for s in sites] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [(s.height, s.width) for s in sites] == [(n, n) for n in (16, 16, 8, 8, 4, 4, 2, 2)]
    assert sites[0].reason == "end of the residual branch of layer1.0"


@pytest.mark.parametrize(
    ("spec", "count", "first"),
    [
        ("torchvision:mobilenet_v2", 10, "features.3.conv.3"),
        ("torchvision:efficientnet_b0", 9, "features.2.1.block.3.1"),
        ("timm:convnext_atto", 12, "stages.0.blocks.0.drop_path"),
        ("torchvision:regnet_y_400mf", 16, "trunk_output.block1.block1-0.f.c.1"),
        ("torchvision:mnasnet0_5", 10, "layers.8.1.layers.7"),
        ("torchvision:mobilenet_v3_small", 6, "features.3.block.2.1"),
        ("timm:cspresnet50", 13, "stages.0.blocks.0.conv3.bn"),
        ("timm:test_resnet", 4, "layer1.0.bn2"),
    ],
)
def test_residual_branches_are_found_without_knowing_the_family(spec, count, first):
    found = paths(ag.create_backbone(spec, pretrained=False))
    assert len(found) == count
    assert found[0] == first


@pytest.mark.parametrize("spec", ["vgg16", slow("densenet121"), slow("inception_v3"), "googlenet", "squeezenet1_1"])
def test_networks_without_residual_sums_have_no_residual_sites(spec):
    with torch.device("meta"):
        model = ag.create_backbone(f"torchvision:{spec}", pretrained=False)
    with pytest.raises(GraftError, match=r"no site found with where='residual'.*try where='stage'"):
        ag.find_sites(model, "residual", input_size=(3, 96, 96))


def test_vgg16_gets_its_five_convolution_groups_and_says_why(vgg16):
    search = search_sites(vgg16, input_size=SMALL)
    # the ReLU before each of the five max-pools
    assert [site.path for site in search.sites] == [f"features.{i}" for i in (3, 8, 15, 22, 29)]
    assert [site.channels for site in search.sites] == [64, 128, 256, 512, 512]
    assert any("auto chose 'pool'" in note for note in search.notes)


def test_small_cnn_gets_its_three_blocks():
    assert paths(ag.create_backbone("small-cnn"), input_size=None) == ["block1.2", "block2.2", "block3.2"]


def test_stage_takes_the_last_output_at_each_resolution(resnet50):
    sites = ag.find_sites(resnet50, "stage", input_size=SMALL)
    assert [site.path for site in sites] == ["relu", "layer1.2", "layer2.3", "layer3.5", "layer4.2"]
    assert [site.height for site in sites] == [32, 16, 8, 4, 2]


def test_the_map_of_logits_is_not_a_stage():
    squeezenet = ag.create_backbone("torchvision:squeezenet1_1", pretrained=False)
    assert paths(squeezenet, "stage") == ["features.1", "features.4", "features.7", "features.12"]


def test_as_many_classes_as_channels_do_not_hide_a_stage(resnet18):
    model = ag.create_backbone("torchvision:resnet18", num_classes=512, pretrained=False)
    assert paths(model, "stage") == paths(resnet18, "stage")


def test_densenet_stages_are_hosted_by_the_layers_that_take_the_dense_blocks_output():
    # a dense block iterates over its children, so it cannot host itself
    model = ag.create_backbone("torchvision:densenet121", pretrained=False)
    transitions = [f"features.transition{n}.norm" for n in (1, 2, 3)]
    assert paths(model, "stage") == ["features.relu0", *transitions, "features.norm5"]


def test_a_star_stays_within_one_name_and_two_cross_dots(resnet18):
    assert paths(resnet18, "layer4.*") == ["layer4.0", "layer4.1"]
    deep = paths(resnet18, "layer4.**")
    assert "layer4.1.bn2" in deep
    assert all(path.startswith("layer4.") for path in deep)
    assert paths(resnet18, "**.bn2") == paths(resnet18, "residual")
    assert paths(resnet18, "layer?.1.bn2") == [f"layer{n}.1.bn2" for n in (1, 2, 3, 4)]


def test_two_stars_alone_take_every_module_that_can_host(resnet18):
    search = search_sites(resnet18, "**", input_size=SMALL)
    found = [site.path for site in search.sites]
    assert {"conv1", "layer1.0", "layer4.1.bn2"} <= set(found)
    assert not {"fc", "avgpool.0", "layer1", "layer1.0.relu"} & set(found)
    assert any("layer1.0.relu" in note and "runs 2 times" in note for note in search.notes)


def test_paths_and_placements_can_be_joined_and_stay_in_running_order(resnet18):
    expected = ["relu", "layer1.0.bn2", "layer4.1"]
    assert paths(resnet18, "layer4.1+layer1.0.bn2+relu") == expected
    assert paths(resnet18, ["layer4.1", "layer1.0.bn2", "relu"]) == expected
    assert paths(resnet18, "residual+layer1.0.bn2") == paths(resnet18, "residual")


def test_a_container_is_hosted_by_its_last_block(resnet18):
    # nn.Sequential would run the attention once as a child and once through the hook
    (site,) = ag.find_sites(resnet18, "layer1", input_size=SMALL)
    assert site.path == "layer1.1"
    assert site.reason == "makes the output of layer1"


def test_a_module_that_runs_twice_is_refused(resnet18):
    with pytest.raises(GraftError, match=r"layer1\.0\.relu: it runs 2 times in the forward pass.*name another"):
        ag.find_sites(resnet18, "layer1.0.relu", input_size=SMALL)


def test_a_module_that_never_runs_is_refused():
    with pytest.raises(GraftError, match="unused: it is not run by the forward pass"):
        ag.find_sites(SharedNet(), "unused", input_size=SMALL)


def test_a_module_without_a_feature_map_is_refused(resnet18):
    with pytest.raises(GraftError, match=r"fc: its output is not one \(B, C, H, W\) tensor"):
        ag.find_sites(resnet18, "fc", input_size=SMALL)


@pytest.mark.parametrize(
    ("wrong", "right"), [("layer1.0.bn22", "layer1.0.bn2"), ("residuall", "residual"), ("layr3", "layer3")]
)
def test_an_unknown_path_names_the_nearest(resnet18, wrong, right):
    with pytest.raises(GraftError, match=f"called '{wrong}': did you mean '{right}'"):
        ag.find_sites(resnet18, wrong, input_size=SMALL)


@pytest.mark.parametrize("where", ["", "residual+", [], [" "]])
def test_an_empty_place_is_refused(resnet18, where):
    with pytest.raises(GraftError, match="expected a placement"):
        ag.find_sites(resnet18, where, input_size=SMALL)


def test_nothing_found_says_what_to_try():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(GraftError, match=r"no site found with where='residual'.*try where='stage'"):
        ag.find_sites(model, "residual", input_size=(3, 4, 4))


def test_a_glob_of_modules_that_cannot_host_says_why(resnet18):
    with pytest.raises(GraftError, match=r"no site found with where='layer\*\.0\.relu' .*runs 2 times"):
        ag.find_sites(resnet18, "layer*.0.relu", input_size=SMALL)


@pytest.mark.parametrize("size", [(0, 8, 8), (3, 8), (3, -1, 8)])
def test_a_senseless_input_size_is_refused(resnet18, size):
    with pytest.raises(GraftError, match=r"input_size is .*expected"):
        ag.find_sites(resnet18, input_size=size)


def test_an_input_that_the_model_cannot_take_says_what_to_give():
    with pytest.raises(GraftError, match=r"cannot process an input of shape \(2, 3, 64, 64\).*give the input_size"):
        ag.find_sites(FunctionalVGG(), input_size=(3, 64, 64))
    assert ag.find_sites(FunctionalVGG())  # the channels follow from its first convolution


def test_functions_instead_of_modules_are_seen():
    # the ReLU before each pooling is a function: its convolution stands in, and the reason says so
    sites = ag.find_sites(FunctionalVGG(), input_size=(1, 32, 32))
    assert [site.path for site in sites] == ["first", "second"]
    assert sites[0].reason == "last output before a pooling, before a plain function"


@pytest.mark.parametrize("style", ["operator", "swapped", "function", "in-place", "scaled"])
def test_every_way_to_write_a_residual_sum_is_seen(style):
    found = paths(FunctionalResNet(styles=(style, style)), input_size=(3, 16, 16))
    assert found == ["blocks.0.leave", "blocks.1.leave"]


def test_one_bare_block_is_a_network_too():
    (site,) = ag.find_sites(ResidualBlock(5), input_size=(5, 8, 8))
    assert site.path == "leave"
    assert site.reason == "end of the residual branch of the model itself"


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "with-arguments"])
def test_a_container_that_iterates_over_its_children_is_not_a_host(scaled):
    model = ChainNet(scaled)
    assert not {"group1", "group2"} & set(paths(model, "**", (3, 16, 16)))
    inside = paths(model, "group1", (3, 16, 16))
    assert all(path.startswith("group1.step") for path in inside)
    grown = ag.graft(model.eval(), "cbam", input_size=(3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(grown(x), model(x))


def test_a_model_that_makes_tensors_on_the_cpu_is_traced_with_its_weights():
    assert paths(CoordinateNet(), input_size=(3, 16, 16)) == [f"blocks.{n}.leave" for n in (0, 1, 2)]


def test_several_inputs_are_given_as_a_tuple():
    images = (torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16))
    assert len(paths(PairNet(), input_size=None, example_input=images)) == 3


def test_a_list_of_images_is_an_example_input():
    images = [torch.zeros(3, 16, 12), torch.zeros(3, 10, 16)]
    assert len(paths(ListNet(), input_size=None, example_input=images)) == 3


def test_the_search_leaves_the_model_as_it_was(resnet18):
    model = ag.create_backbone("torchvision:resnet18", pretrained=False).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    ag.find_sites(model, "residual+stage+pool", input_size=SMALL)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_half_precision_models_are_searched_in_their_own_precision(resnet18):
    assert paths(ag.create_backbone("timm:resnet18", pretrained=False).bfloat16()) == paths(resnet18)


def test_the_search_works_in_inference_mode(resnet18):
    with torch.inference_mode():
        assert len(paths(resnet18)) == 8
        assert len(paths(CoordinateNet(), input_size=(3, 16, 16))) == 3


@pytest.mark.parametrize("where", ["residual", "stage", "pool"])
def test_a_grown_network_has_the_sites_of_its_backbone(resnet18, where):
    grown = ag.graft(resnet18, "simam", input_size=SMALL)  # SimAM itself sums two maps of one shape
    assert paths(grown, where) == paths(resnet18, where)


@pytest.mark.parametrize("layers", [[nn.BatchNorm2d(5)], [nn.BatchNorm2d(4), nn.BatchNorm2d(3)]])
def test_a_normalisation_of_other_channels_is_refused(layers):
    with pytest.raises(GraftError, match="cannot process"):
        ag.find_sites(nn.Sequential(nn.Conv2d(3, 4, 3), *layers), input_size=(3, 8, 8))


def test_torchscript_parts_are_passed_over_and_said():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    ).eval()
    model[3] = as_torchscript(model[3], 1, 8, 15, 15)
    plan = ag.plan_graft(model, "se", input_size=(3, 32, 32))
    assert [site.path for site in plan.sites] == ["1", "4"]
    assert any("'3' is TorchScript, in which no attention can be put" in note for note in plan.notes)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ag.graft(model, plan)(x), model(x))
    with pytest.raises(GraftError, match=r"3: it is TorchScript.*graft before it is scripted"):
        ag.find_sites(model, "3", input_size=(3, 32, 32))


def test_a_torchscript_model_has_no_sites_and_the_reason_is_said():
    model = as_torchscript(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)), 1, 3, 32, 32)
    for where in ("auto", "residual"):
        with pytest.raises(GraftError, match=r"the model is TorchScript.*graft before it is scripted"):
            ag.find_sites(model, where, input_size=(3, 32, 32))
    assert ag.grafts(model) == {}


@pytest.mark.parametrize("size", [64, torch.Size([3, 64, 64])], ids=str)
def test_the_side_of_a_square_stands_for_the_size(resnet18, size):
    assert ag.find_sites(resnet18, input_size=size) == ag.find_sites(resnet18, input_size=SMALL)


@pytest.mark.parametrize("size", [0, (64,), (64, 64), (3, 64, 64, 64), (3, 64.0, 64), "64", (3, 0, 64)], ids=str)
def test_a_size_that_is_none_is_refused(resnet18, size):
    with pytest.raises(GraftError, match=r"expected \(channels, height, width\)"):
        ag.find_sites(resnet18, input_size=size)


def test_a_name_in_place_of_a_model_is_refused_with_what_makes_one():
    for call in (ag.find_sites, ag.ungraft, lambda model: ag.graft(model, "se")):
        with pytest.raises(GraftError, match=r"got str as the model: .* create_backbone\('timm:resnet18'\)"):
            call("timm:resnet18")


def test_a_class_in_place_of_a_plan_is_refused(resnet18):
    with pytest.raises(GraftError, match="got type as the plan: expected a GraftPlan, or the name of an attention"):
        ag.graft(resnet18, nn.ReLU)


def test_inference_mode_in_a_forward_is_named():
    class Network(nn.Sequential):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    with pytest.raises(GraftError, match=r"take torch\.inference_mode out of its forward"):
        ag.find_sites(Network(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), input_size=SMALL)


class Twice(nn.Module):
    """A network that is run on two images, or again on what it put out."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.body, self.mode = FunctionalResNet(), mode
        self.cell, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x, other=None):
        if self.mode == "siamese":
            return self.body(x) - self.body(x if other is None else other)
        if self.mode == "triplet":
            return self.body(x), self.body(x.flip(2)), self.body(x.flip(3))
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "size", "reason"),
    [
        (Twice("siamese"), (2, 3, 16, 16), r"'body' runs 2 times in one forward pass.*graft_ the module 'body'"),
        (Twice("triplet"), (2, 3, 16, 16), r"'body' runs 3 times in one forward pass"),
        (Twice("recurrent"), (2, 3, 16, 16), r"'cell' runs 3 times in one forward pass"),
        (nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten()), (2, 1, 4, 8, 8), r"\(B, C, D, H, W\)"),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten()), (2, 2, 16), r"\(B, C, L\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (2, 3, 2, 2), "no module of it puts out a feature map"),
        (nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), (2, 5, 8), "no module of it puts out a feature map"),
        (nn.LSTM(4, 4, batch_first=True), (2, 5, 4), "no module of it puts out a feature map"),
    ],
    ids=["siamese", "triplet", "recurrent", "3-D", "1-D", "perceptron", "transformer", "lstm"],
)
def test_the_reason_why_a_network_has_no_site_is_said(model, size, reason):
    for where in ("auto", "residual", "stage", "pool"):
        with pytest.raises(GraftError, match=f"no site found with where='{where}': .*{reason}") as caught:
            ag.plan_graft(model, "se", where=where, example_input=torch.zeros(size))
        assert "single residual block" not in str(caught.value)


def test_the_part_that_runs_twice_can_be_grafted_by_itself():
    plain, grown = Twice("siamese").eval(), Twice("siamese").eval()
    grown.load_state_dict(plain.state_dict())
    ag.graft_(grown.body, "se", input_size=(3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(grown(x, x.flip(2)), plain(x, x.flip(2)))


class Segmenter(nn.Module):
    """A residual body and a head for every position, as different people end it."""

    def __init__(self, ending: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), ResidualBlock(8), ResidualBlock(8))
        self.mid, self.logits, self.aux = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 5, 1), nn.Conv2d(8, 5, 1)
        self.up, self.ending = nn.ConvTranspose2d(5, 5, 4, 4), ending

    def forward(self, x):
        y = self.body(x)
        z = self.logits(torch.relu(self.mid(y)))
        if self.ending == "transposed":
            return self.up(z)
        z = torch.nn.functional.interpolate(z, size=x.shape[2:])
        if self.ending == "dict":
            return {"out": z, "aux": torch.nn.functional.interpolate(self.aux(y), size=x.shape[2:])}
        if self.ending == "sum":
            return z + torch.nn.functional.interpolate(self.aux(y), size=x.shape[2:])
        if self.ending == "rows":
            return z.flatten(2).transpose(1, 2)
        return z.softmax(1) if self.ending == "softmax" else z


@pytest.mark.parametrize("ending", ["plain", "dict", "sum", "rows", "softmax", "transposed"])
@pytest.mark.parametrize("where", ["auto", "residual", "stage", "pool", "**"])
def test_the_map_of_logits_of_a_segmentation_network_is_no_site(ending, where):
    try:
        found = paths(Segmenter(ending), where, (3, 16, 24))
    except GraftError:
        assert where == "pool"
        return
    assert not {"up" if ending == "transposed" else "logits", "aux"} & set(found)
    assert where != "stage" or "mid" in found


@pytest.mark.parametrize("block", [nn.ReLU(), nn.BatchNorm2d(8), ResidualBlock(8)])
def test_a_network_that_returns_features_has_a_site_on_the_last(block):
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), block)
    assert paths(body, "stage", (3, 16, 16))[-1].startswith("3")
