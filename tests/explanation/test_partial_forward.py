"""Passes that begin in the middle of a network give what whole passes give, and leave the network as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from cases import few_of, slow
from grafting_helpers import settle_, stir_grafts_
from torch import Tensor, nn
from torch.nn import functional as F

import attngraft as ag
from attngraft.attention import Attention, Gates
from attngraft.errors import GraftError
from attngraft.explanation.partial_forward import PartialForward, Recording
from attngraft.surgery import grafts

SIZE = 32
BATCH = 3


def batch(seed: int = 0, images: int = BATCH) -> Tensor:
    return torch.randn(images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def stirred(model: nn.Module, attention: str, where: str = "auto", **options: Any) -> nn.Module:
    """Grafted, in eval mode, with statistics and attention that do something."""
    grown = ag.graft(settle_(model), attention, where=where, input_size=(3, SIZE, SIZE), **options)
    return stir_grafts_(grown.eval(), 0.3)


def packaged(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: ag.create_backbone(name, num_classes=5, pretrained=False, **options)


def small_densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 2, 2), 16, num_classes=5)


def small_resnet() -> nn.Module:
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


def small_vgg() -> nn.Module:
    layers = torchvision.models.vgg.make_layers([8, "M", 16, "M", 16, 16, "M"], batch_norm=True)
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


NETWORKS = {
    "timm resnet18": (packaged("timm:resnet18"), "cbam", "auto"),
    "timm resnet50": (packaged("timm:resnet50"), "se", "layer2.1.bn3+layer4.2.bn3"),
    "torchvision resnet10": (small_resnet, "scse", "auto"),
    "torchvision resnet10, inner": (small_resnet, "sge", "layer*.0.conv1"),
    "tf_efficientnet_lite0": (packaged("timm:tf_efficientnet_lite0"), "eca", "stage"),
    "mobilenetv3": (packaged("timm:mobilenetv3_small_050"), "coord", "stage"),
    "regnety": (packaged("timm:regnety_002"), "triplet", "stage"),
    "convnext": (packaged("timm:convnext_atto"), "gct", "stage"),
    "vgg": (small_vgg, "bam", "pool"),
    "densenet": (small_densenet, "light-cbam", "auto"),
    "shufflenet": (packaged("torchvision:shufflenet_v2_x0_5"), "simam", "stage"),
    "small-cnn": (packaged("small-cnn"), "capacity", "auto"),
}

SMALL = ("torchvision resnet10", "torchvision resnet10, inner", "convnext", "vgg", "densenet", "small-cnn")


def halved(attention: Attention, x: Tensor) -> Gates:
    gates = attention.gates(x)
    return replace(gates, **{part: 0.5 * getattr(gates, part) for part in attention.parts})


def without(off: tuple[str, ...], attention: Attention, x: Tensor) -> Gates:
    return attention.gates_without(x, off)


def other_image(attention: Attention, x: Tensor) -> Gates:
    gates = attention.gates(x)
    return replace(gates, **{part: getattr(gates, part).roll(1, 0) for part in attention.parts})


@pytest.mark.parametrize("name", few_of(NETWORKS, SMALL))
def test_a_pass_from_any_site_equals_a_whole_one(name: str) -> None:
    build, attention, where = NETWORKS[name]
    model = stirred(build(), attention, where)
    x = batch()
    partial_forward = PartialForward(model, batch(7, images=2))
    assert set(partial_forward.sites) == set(grafts(model))
    assert partial_forward.shortened == partial_forward.sites, "every site of this network can be started from"
    recording = partial_forward.record(x)
    with torch.no_grad():
        assert torch.equal(recording.logits, model(x))
    parts = next(iter(grafts(model).values())).parts
    for path in partial_forward.sites:
        for compute in (partial(without, parts[:1]), partial(without, parts), other_image):
            shortened = partial_forward.rerun(recording, {path: compute})
            assert torch.equal(shortened.logits, partial_forward.whole(x, {path: compute}).logits), (path, compute)
    assert torch.equal(partial_forward.record(x).logits, recording.logits)


@pytest.mark.parametrize("name", ["torchvision resnet10", "densenet", "small-cnn"])
def test_passes_start_from_one_another_in_any_order(name: str) -> None:
    build, attention, where = NETWORKS[name]
    model = stirred(build(), attention, where)
    partial_forward = PartialForward(model, batch(7, images=2))
    x, rng, ways = batch(), np.random.default_rng(0), (None, halved, other_image)
    recording = partial_forward.record(x)
    for _ in range(6):
        chosen = {path: ways[rng.integers(3)] for path in partial_forward.sites}
        changes = {path: compute for path, compute in chosen.items() if compute is not None}
        recording = partial_forward.rerun(recording, changes, keep=True)
        assert torch.equal(recording.logits, partial_forward.whole(x, changes).logits)
        assert recording.outputs is not None


def test_an_unknown_site_is_named() -> None:
    partial_forward = PartialForward(grown(Functions(), ["host"]), batch())
    with pytest.raises(GraftError, match="did you mean 'host'"):
        partial_forward.rerun(partial_forward.record(batch()), {"hots": halved})


def test_what_is_equal_is_not_computed_at_all() -> None:
    model = stirred(ag.create_backbone("small-cnn", num_classes=5), "se")
    partial_forward = PartialForward(model, batch())
    changes = {partial_forward.sites[0]: halved}
    recording = partial_forward.rerun(partial_forward.record(batch()), changes)
    assert partial_forward.rerun(recording, dict(changes)) is recording


def test_modules_before_the_site_do_not_run_again() -> None:
    model = stirred(small_resnet(), "cbam")
    runs: list[str] = []
    for path in ("layer1.0.conv1", "layer2.0.conv2", "layer3.0.conv1"):
        inner = model.get_submodule(path)
        original = inner._conv_forward
        inner._conv_forward = lambda *args, path=path, original=original: (runs.append(path), original(*args))[1]
    partial_forward = PartialForward(model, batch(images=1))
    recording = partial_forward.record(batch())
    runs.clear()
    partial_forward.rerun(recording, {"layer2.0.bn2": halved})
    assert runs == ["layer3.0.conv1"]


def test_little_is_held() -> None:
    """Of each block of a resnet what enters it and what its host returned: nobody looks at the rest."""
    model = stirred(small_resnet(), "cbam")
    partial_forward = PartialForward(model, batch(images=2))
    assert partial_forward.sites == ("layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2")
    entered = [64 * 8 * 8, 64 * 8 * 8, 128 * 4 * 4]
    returned = [64 * 8 * 8, 128 * 4 * 4, 256 * 2 * 2]
    assert partial_forward.bytes_per_image == 4 * sum(entered + returned)


class Blocks(nn.Module):
    """The frame of the networks below: what comes before the host, the host, and what comes after."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.host = nn.Conv2d(channels, channels, 3, padding=1)
        self.after = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Linear(channels, 4)

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.after(x).mean((2, 3)))


class ChangedLater(Blocks):
    """Changes the stem's output in place after the host has run, and the host's too."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.host(x)
        x *= 2
        y += x
        return self.logits(y.relu_())


class ChangedBefore(Blocks):
    """Changes the stem's output in place before the host sees it; both names are the same tensor."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        same = x
        x += 1
        return self.logits(self.host(x) + same)


class Alias(Blocks):
    """An identity returns the very tensor that it got, and one name of it is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.identity(x)
        y += 1
        return self.logits(self.host(x) + y)


class Repeated(Blocks):
    """One module runs before and after the host."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.after(self.stem(x)))
        return self.logits(self.after(self.host(x)))


class Nested(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x))


class SharedByParents(Blocks):
    """Two parents have one child; one of them runs before the host, the other holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Nested(self.after)
        self.second = nn.Sequential(self.after, self.host, self.after)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.second(self.first(self.stem(x))))


class Bundle(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"pair": (x, x + 1), "rest": [x - 1], "name": "bundle"}


class Bundles(Blocks):
    """A module returns tensors in a dict, a tuple and a list, and the list is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.bundle = Bundle()

    def forward(self, x: Tensor) -> Tensor:
        found = self.bundle(self.stem(x))
        found["rest"].append(found["pair"][1])
        y = self.host(found["pair"][0]) + sum(found["rest"])
        return self.logits(y) + len(found["rest"])


class Functions(Blocks):
    """Functions stand between the modules."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = torch.cat([x[:, 3:], x[:, :3]], 1)
        return self.logits(F.gelu(self.host(x)) * torch.sigmoid(x))


class Dropped(Blocks):
    """Draws random numbers in training only."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.stem(x), 0.5, self.training)
        return self.logits(torchvision.ops.stochastic_depth(self.host(x), 0.5, "row", self.training) + x)


class HostAroundHost(Blocks):
    """The hosts are one inside of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = Nested(self.host)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.outer(self.stem(x)))


OWN = {
    "changed later": (ChangedLater, ["host"]),
    "changed before": (ChangedBefore, ["host"]),
    "repeated": (Repeated, ["host"]),
    "shared": (SharedByParents, ["host"]),
    "bundles": (Bundles, ["host"]),
    "functions": (Functions, ["stem", "host", "after"]),
    "dropped": (Dropped, ["stem", "host"]),
    "host around host": (HostAroundHost, ["outer", "host"]),
}


def grown(model: nn.Module, sites: list[str]) -> nn.Module:
    torch.manual_seed(0)
    return stirred(model, "cbam", "+".join(sites))


def assert_agrees(partial_forward: PartialForward, x: Tensor) -> Recording:
    recording = partial_forward.record(x)
    assert torch.equal(recording.logits, partial_forward.whole(x, {}).logits)
    for compute in (halved, partial(without, ("channel", "spatial"))):
        for paths in (partial_forward.sites, *((path,) for path in partial_forward.sites)):
            changes = dict.fromkeys(paths, compute)
            shortened = partial_forward.rerun(recording, changes)
            assert torch.equal(shortened.logits, partial_forward.whole(x, changes).logits), (paths, compute)
    return recording


@pytest.mark.parametrize("name", OWN)
def test_habits_of_networks(name: str) -> None:
    build, sites = OWN[name]
    partial_forward = PartialForward(grown(build(), sites), batch(images=2))
    assert partial_forward.shortened == partial_forward.sites
    assert_agrees(partial_forward, batch(4))


def test_hosts_one_inside_the_other_run_from_the_inner_one() -> None:
    partial_forward = PartialForward(grown(HostAroundHost(), ["outer", "host"]), batch(images=1))
    assert partial_forward.sites == ("host", "outer")


def test_names_of_one_tensor_are_computed_as_a_whole_where_copies_would_not_do() -> None:
    partial_forward = PartialForward(grown(Alias(), ["host"]), batch(images=1))
    assert_agrees(partial_forward, batch(4))


class Wayward(Blocks):
    """The order of its modules depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = self.after(F.relu(y)) if x.mean() > 0 else F.relu(y)
        y = self.host(y)
        return self.logits(y) if x.mean() > 0 else self.logits(self.after(y))


def test_a_batch_that_takes_another_way_is_computed_as_a_whole() -> None:
    partial_forward = PartialForward(grown(Wayward(), ["host"]), batch(images=1).abs())
    assert_agrees(partial_forward, batch(1).abs())
    other = assert_agrees(partial_forward, -batch(1).abs())
    assert other.outputs is None
    assert_agrees(partial_forward, batch(2).abs())


class Tipping(Blocks):
    """Changes what came before the host only where the host's map is small enough; then that is seen late."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.host(x)
        if y.abs().max() < 1e-3:
            x += 5
        return self.logits(y + x)


def tiny(attention: Attention, x: Tensor) -> Gates:
    return replace(attention.gates(x), channel=torch.full(x.shape[:2], 1e-6))


def test_an_output_that_is_changed_unexpectedly_is_not_used_again() -> None:
    partial_forward = PartialForward(grown(Tipping(), ["host"]), batch(images=1))
    x = batch(3)
    recording = partial_forward.record(x)
    for _ in range(2):
        assert torch.equal(
            partial_forward.rerun(recording, {"host": tiny}).logits, partial_forward.whole(x, {"host": tiny}).logits
        )
        assert torch.equal(
            partial_forward.rerun(recording, {"host": halved}).logits, partial_forward.whole(x, {"host": halved}).logits
        )
    fresh = partial_forward.record(x)
    partial_forward.rerun(fresh, {"host": tiny})
    again = partial_forward.rerun(fresh, {"host": halved}, keep=True)
    assert again.outputs is not None, "once it is known, copies are kept and given"
    assert torch.equal(again.logits, partial_forward.whole(x, {"host": halved}).logits)


class Noisy(Blocks):
    """Draws random numbers at any time: no pass equals another."""

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.host(self.stem(x)) + torch.randn(1))


def test_a_network_that_never_repeats_itself_is_computed_as_a_whole() -> None:
    torch.manual_seed(0)
    partial_forward = PartialForward(grown(Noisy(), ["host"]), batch(images=1))
    assert partial_forward.shortened == ()
    assert partial_forward.record(batch()).logits.shape == (BATCH, 4)


class Fickle(Blocks):
    """Now and then runs a module before the host, now and then after it."""

    def __init__(self) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if torch.rand(1, generator=self.random) < 0.5:
            return self.logits(self.host(self.after(x)))
        return self.logits(self.after(self.host(x)))


def test_a_network_that_changes_its_mind_breaks_nothing() -> None:
    model = ag.graft_(Fickle(), "se", where="host", input_size=(3, SIZE, SIZE)).eval()
    partial_forward = PartialForward(model, batch(images=1))
    recording = partial_forward.record(batch())
    for _ in range(8):
        assert partial_forward.rerun(recording, {"host": halved}).logits.shape == (BATCH, 4)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_network_with_compiled_parts_is_computed_as_a_whole() -> None:
    model = grown(Functions(), ["host"])
    model.after.compile(backend="eager")
    partial_forward = PartialForward(model, batch(images=1))
    assert partial_forward.shortened == ()
    assert_agrees(partial_forward, batch())


class Interrupting(Blocks):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error, self.armed = error, False

    def forward(self, x: Tensor) -> Tensor:
        x = self.host(self.stem(x))
        if self.armed:
            raise self.error("enough")
        return self.logits(x)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_network_is_as_before_also_after_an_error(error: type[BaseException]) -> None:
    model = grown(Interrupting(error), ["host"])
    own = model.after.forward = partial(nn.Conv2d.forward, model.after)  # somebody's own replacement stays
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    before, hooks = copy.deepcopy(model.state_dict()), len(model.host._forward_hooks)
    partial_forward = PartialForward(model, batch(images=1))
    recording = partial_forward.record(batch())
    model.armed = True
    for action in (lambda: partial_forward.record(batch()), lambda: partial_forward.rerun(recording, {"host": halved})):
        with pytest.raises(error, match="enough"):
            action()
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert model.after.forward is own
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert len(model.host._forward_hooks) == hooks
    model.armed = False
    assert_agrees(partial_forward, batch())


def test_hooks_of_others_see_what_they_saw() -> None:
    """A hook that changes an output does so in shortened passes too, once."""
    model = grown(Functions(), ["host", "after"])
    model.stem.register_forward_hook(lambda module, args, output: output + 1)
    partial_forward = PartialForward(model, batch(images=1))
    assert partial_forward.shortened == partial_forward.sites
    assert_agrees(partial_forward, batch())


def test_inference_mode_outside_does_not_matter() -> None:
    partial_forward = PartialForward(grown(ChangedLater(), ["host"]), batch(images=1))
    with torch.inference_mode():
        x = batch(5) * 1
        inside = partial_forward.rerun(partial_forward.record(x), {"host": halved}).logits
    assert torch.equal(inside, partial_forward.whole(batch(5), {"host": halved}).logits)


def test_global_random_numbers_are_left_alone() -> None:
    state = torch.get_rng_state()
    partial_forward = PartialForward(grown(Dropped(), ["stem", "host"]), batch(images=1))
    torch.set_rng_state(state)
    partial_forward.rerun(partial_forward.record(batch()), {"host": halved})
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("form", ["bf16", "channels last", "symbolically traced", slow("compiled wrapper")])
def test_other_forms_of_a_network(form: str) -> None:
    model, x = stirred(small_resnet(), "cbam"), batch()
    if form == "bf16":
        model, x = model.bfloat16(), x.bfloat16()
    elif form == "channels last":
        model, x = (thing.to(memory_format=torch.channels_last) for thing in (model, x))
    else:
        model = torch.fx.symbolic_trace(model) if form == "symbolically traced" else torch.compile(model)
    partial_forward = PartialForward(model, x[:1])
    assert partial_forward.shortened == partial_forward.sites == ("layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2")
    assert_agrees(partial_forward, x)
