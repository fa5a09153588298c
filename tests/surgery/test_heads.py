"""The head is what makes the main output in a recorded forward pass, and another can be put in its place."""

from __future__ import annotations

import pytest
import torch
from cases import slow
from torch import Tensor, nn
from torch.nn import functional as F

import attngraft as ag
from attngraft.backbones.classifier_layers import published_heads
from attngraft.errors import BackboneError, GraftError
from attngraft.surgery import find_head, replace_head_

SMALL = (3, 32, 32)
HEADS = {
    "torchvision:resnet18": "fc",
    "torchvision:vgg11": "classifier.6",
    "torchvision:densenet121": "classifier",
    "torchvision:mobilenet_v2": "classifier.1",
    "torchvision:squeezenet1_0": "classifier.1",
    "torchvision:googlenet": "fc",
    "torchvision:mnasnet0_5": "classifier.1",
    "timm:test_convnext": "head.fc",
    "timm:repvgg_a0": "head.fc",
    "timm:ghostnet_100": "classifier",
    "timm:dla46_c": "fc",
    "timm:dpn48b": "classifier",
    "timm:hrnet_w18_small": "classifier",
    "timm:resnetv2_50": "head.fc",
    "timm:legacy_xception": "fc",
    "small-cnn": "head",
}


SIMILAR = {"torchvision:densenet121", "torchvision:squeezenet1_0", "torchvision:mnasnet0_5", "timm:repvgg_a0"}
SIMILAR |= {"timm:ghostnet_100", "timm:hrnet_w18_small", "timm:legacy_xception", "timm:dpn48b"}


@pytest.mark.parametrize(("spec", "path"), [slow(*item) if item[0] in SIMILAR else item for item in HEADS.items()])
def test_the_head_is_found_and_replaced(spec, path):
    with torch.device("meta"):  # names and shapes are enough
        model = ag.create_backbone(spec, pretrained=False)
    head = find_head(model, input_size=(3, 64, 64))
    assert head.layers == head.modules == published_heads(model) == (path,)
    assert head.parameters == frozenset()
    assert replace_head_(model, 6, input_size=(3, 64, 64)) == (path,)
    assert model(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 6)


class Network(nn.Module):
    """A head that is defined before the body; subclasses say what happens to the features."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 1)

    def features(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class LogSoftmax(Network):
    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(F.dropout(F.relu_(self.fc(self.features(x))), 0.1, self.training), 1)[:, :3]


class TwoHeads(Network):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return (self.fc(x) + self.other(x)) / 2


class NormedHead(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(self.features(x))) * self.scale


class Bypassed(Network):
    """The features reach the output beside the head as well."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.fc(x) + 0.1 * x[:, :4]


class Functional(Network):
    """Prototypes as a plain parameter, compared by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.ones(4, 8))
        self.shift = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.features(x)) @ F.normalize(self.prototypes).T + self.shift


class Tied(Network):
    """Uses the weights of another layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.features(x), self.embedding.weight)


class InPlace(Network):
    """Collects its output in slices of a buffer."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        out = x.new_zeros(len(x), 8)
        out[:, :4] = self.fc(x)
        out[:, 4:] = self.other(x)
        return out.flatten(1).tanh_()


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.T

    @staticmethod
    def backward(ctx, grad: Tensor):
        raise NotImplementedError


class OpaqueLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Opaque.apply(x, self.weight)


class WithAuxiliary(Network):
    """Returns more than its logits, as GoogLeNet does in train mode."""

    def forward(self, x: Tensor):
        x = self.features(x)
        return {"aux": self.other(x), "logits": self.fc(x)}


NETWORKS = {
    "head first": (Network(), ("fc",), ("fc.bias",)),
    "log-softmax and a slice": (LogSoftmax(), ("fc",), ("fc.bias",)),
    "two heads": (TwoHeads(other=nn.Linear(8, 4)), ("fc", "other"), ("fc.bias", "other.bias")),
    "bypass": (Bypassed(), ("fc",), ("fc.bias",)),
    "in place": (InPlace(other=nn.Linear(8, 4)), ("fc", "other"), ("fc.bias", "other.bias")),
    "opaque": (Network(fc=OpaqueLinear(8, 4)), ("fc",), ()),
    "auxiliary": (WithAuxiliary(other=nn.Linear(8, 5)), ("fc",), ("fc.bias",)),
    "weight norm": (
        Network(fc=nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))), ("fc",), ("fc.bias",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_makes_the_output_wherever_it_is_defined(name):
    model, layers, biases = NETWORKS[name]
    head = find_head(model, input_size=SMALL)
    assert (head.layers, head.biases, head.parameters) == (layers, biases, frozenset())
    assert all(head.contains(layer) for layer in layers)
    assert not head.contains("second.weight")


def test_what_normalises_and_scales_the_logits_belongs_to_the_head():
    model = NormedHead(norm=nn.BatchNorm1d(4), scale=nn.Parameter(torch.ones(())))
    head = find_head(model, input_size=SMALL)
    assert (head.layers, head.parameters) == (("fc",), {"norm.weight", "norm.bias", "scale"})
    assert head.contains("norm.weight")


def test_functions_of_plain_parameters_are_heads_that_cannot_be_replaced():
    head = find_head(Functional(), input_size=SMALL)
    assert (head.layers, head.parameters, head.biases) == ((), {"prototypes", "shift"}, ("shift",))
    with pytest.raises(BackboneError, match="no layer of its own computes the output: give a model with 3 outputs"):
        replace_head_(Functional(), 3, input_size=SMALL)


def test_a_layer_whose_weights_are_used_elsewhere_cannot_be_replaced():
    model = Tied(embedding=nn.Embedding(4, 8))
    assert find_head(model, input_size=SMALL).layers == ("embedding",)
    with pytest.raises(BackboneError, match=r"the head 'embedding' is of the class Embedding.*a model with 3 outputs"):
        replace_head_(model, 3, input_size=SMALL)


def test_both_of_two_heads_are_replaced():
    model = TwoHeads(other=nn.Linear(8, 4))
    assert replace_head_(model, 7, input_size=SMALL) == ("fc", "other")
    assert model(torch.zeros(2, *SMALL)).shape == (2, 7)


def test_a_graft_is_never_the_head():
    model = ag.graft(ag.create_backbone("small-cnn"), "se", where="stage")
    assert find_head(model).layers == ("head",)
    squeezenet = ag.create_backbone("torchvision:squeezenet1_0", num_classes=5, pretrained=False)
    grown = ag.graft(squeezenet, "cbam", where="classifier.1", input_size=(3, 64, 64))
    assert find_head(grown, input_size=(3, 64, 64)).layers == ("classifier.1",)


def test_heads_around_which_a_model_names_a_module_are_that_module():
    model = Network(fc=nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4)))
    model.get_classifier = lambda: model.fc
    head = find_head(model, input_size=SMALL)
    assert (head.layers, head.modules) == (("fc.1",), ("fc",))
    model.get_classifier = lambda: model.first  # what a model says is no more than a hint
    assert find_head(model, input_size=SMALL).modules == ("fc.1",)


def test_finding_a_head_changes_nothing():
    model = Network(fc=nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4)))
    before, modes, state = {k: v.clone() for k, v in model.state_dict().items()}, model.training, torch.get_rng_state()
    find_head(model, input_size=SMALL)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_without_layers_or_for_other_inputs_has_no_head():
    with pytest.raises(BackboneError, match="no layer with weights makes the output"):
        find_head(nn.Flatten())
    with pytest.raises(GraftError, match=r"cannot process an input of shape .*: give the input_size"):
        find_head(Network(), input_size=(1, 32, 32))


def test_a_new_head_keeps_what_the_old_one_had():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False)).to(torch.bfloat16)
    replace_head_(model, 3, input_size=(3, 2, 2))
    assert (model[1].weight.shape, model[1].weight.dtype, model[1].bias) == ((3, 12), torch.bfloat16, None)
    model = ag.create_backbone("timm:test_resnet", pretrained=False)
    replace_head_(model, 3)
    assert model.num_classes == 3
    convolutional = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    replace_head_(convolutional, 2, input_size=SMALL)
    assert (convolutional[0].kernel_size, convolutional[0].padding) == ((3, 3), (1, 1))
    assert convolutional(torch.zeros(1, *SMALL)).shape == (1, 2)


def test_only_the_head_changes():
    model = ag.create_backbone("small-cnn")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    replace_head_(model, 4)
    changed = {k for k, v in model.state_dict().items() if v.shape != before[k].shape or not torch.equal(v, before[k])}
    assert changed == {"head.weight", "head.bias"}


FAMILIES = [
    "timm:cait_xxs24_224", "timm:coat_tiny", "timm:convmixer_768_32", "timm:cspresnet50", "timm:darknet17",
    "timm:deit_tiny_distilled_patch16_224", "timm:densenet121", "timm:dm_nfnet_f0", "timm:edgenext_xx_small",
    "timm:efficientformer_l1", "timm:efficientnet_b0", "timm:efficientvit_b0", "timm:eva02_tiny_patch14_224",
    "timm:fastvit_t8", "timm:focalnet_tiny_srf", "timm:gernet_s", "timm:ghostnet_100", "timm:hardcorenas_a",
    "timm:inception_v3", "timm:inception_resnet_v2", "timm:lcnet_050", "timm:levit_128s", "timm:maxvit_rmlp_pico_rw_256",
    "timm:mixnet_s", "timm:mixer_s32_224", "timm:mobilenetv3_small_050", "timm:mobilevit_xxs", "timm:mvitv2_tiny",
    "timm:nasnetalarge", "timm:pit_ti_distilled_224", "timm:poolformer_s12", "timm:pvt_v2_b0", "timm:regnetx_002",
    "timm:repghostnet_050", "timm:repvit_m0_9", "timm:res2net50_14w_8s", "timm:rexnetr_200", "timm:selecsls42",
    "timm:senet154", "timm:sequencer2d_s", "timm:skresnet18", "timm:swin_tiny_patch4_window7_224", "timm:tiny_vit_5m_224",
    "timm:tresnet_m", "timm:vgg11", "timm:visformer_tiny", "timm:vit_tiny_patch16_224", "timm:vovnet39a",
    "timm:xception41", "timm:xcit_nano_12_p8_224",
    "torchvision:alexnet", "torchvision:convnext_tiny", "torchvision:efficientnet_b0", "torchvision:maxvit_t",
    "torchvision:mobilenet_v3_small", "torchvision:resnext50_32x4d", "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1", "torchvision:swin_t", "torchvision:vgg11_bn", "torchvision:vit_b_32",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("spec", FAMILIES)
def test_what_a_published_network_calls_its_classifier_is_what_makes_its_output(spec):
    with torch.device("meta"):
        model = ag.create_backbone(spec, pretrained=False)
    head = find_head(model)
    assert (head.modules, head.parameters) == (published_heads(model), frozenset())
