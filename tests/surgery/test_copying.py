"""Models that keep what Python cannot copy are grafted all the same, or named in one sentence."""

import queue
import threading
import warnings

import pytest
import torch
from grafting_helpers import as_torchscript, image_batch, stir_grafts_
from torch import nn
from torch.nn.utils import prune

import attngraft as ag
from attngraft.errors import GraftError
from attngraft.surgery import check_live, copy_model

SIZE = (3, 32, 32)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class KeepsFeatures(Network):
    def forward(self, x):
        self.features = self.body(x)
        self.history = {"means": [self.features.mean()]}
        return self.head(self.features.mean((2, 3)))


def keeping(**kept):
    model = Network()
    for name, value in kept.items():
        setattr(model, name, value)
    return model


def after_a_pass():
    model = KeepsFeatures()
    model(image_batch(2, *SIZE))
    return model


def with_old_norms():
    model = Network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are deprecated, and still met
        nn.utils.weight_norm(model.body[0])
        nn.utils.spectral_norm(model.body[3])
    return model


def pruned():
    model = Network()
    prune.l1_unstructured(model.body[0], "weight", 0.3)
    prune.random_structured(model.head, "weight", amount=1, dim=1)
    return model


def with_a_module_in_a_list():
    inner = nn.Conv2d(3, 3, 1)
    inner.lock = threading.Lock()
    return keeping(others=[inner])


def with_a_callback():
    """An object that knows the model and holds what cannot be copied."""

    class Callback:
        def __init__(self, model):
            self.model, self.lock = model, threading.RLock()

    model = Network()
    model.callback = Callback(model)
    return model


MODELS = {
    "a lock": lambda: keeping(lock=threading.Lock()),
    "a lock in a dict of lists": lambda: keeping(state={"locks": [threading.Lock()]}),
    "a queue": lambda: keeping(queue=queue.Queue()),
    "an event": lambda: keeping(event=threading.Event()),
    "a generator": lambda: keeping(numbers=(n for n in range(3))),
    "a module": lambda: keeping(library=warnings),
    "kept features": after_a_pass,
    "weight_norm and spectral_norm": with_old_norms,
    "pruning": pruned,
    "a module in a list": with_a_module_in_a_list,
    "a callback": with_a_callback,
}


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "-"))
def model(request):
    return MODELS[request.param]().eval()


def test_a_grown_copy_computes_the_same_and_leaves_the_original(model):
    x, keys = image_batch(2, *SIZE), list(model.state_dict())
    before = model(x)
    grown = ag.graft(model, "cbam", input_size=SIZE)
    assert torch.equal(grown(x), before)
    assert list(model.state_dict()) == keys
    assert not {p.data_ptr() for p in grown.parameters()} & {p.data_ptr() for p in model.parameters()}
    stir_grafts_(grown)
    assert not torch.equal(grown(x), before)
    assert torch.equal(model(x), before)


def test_grafting_in_place_works_as_well(model):
    x = image_batch(2, *SIZE)
    before = model(x)
    assert ag.graft_(model, "se", input_size=SIZE) is model
    check_live(model)
    assert torch.equal(model(x), before)
    assert torch.equal(ag.ungraft(model)(x), before)


def test_an_open_file_is_shared(tmp_path):
    with (tmp_path / "log.txt").open("w") as log:
        grown = ag.graft(keeping(log=log), "se", input_size=SIZE)
        assert grown.log is log


def test_gradients_reach_the_weights_behind_pruning():
    grown = ag.graft(pruned(), "se", input_size=SIZE)
    grown(image_batch(2, *SIZE)).sum().backward()
    assert grown.body[0].weight_orig.grad.any()


@pytest.mark.parametrize("build", [nn.LazyConv2d, nn.LazyBatchNorm2d], ids=["convolution", "statistics"])
def test_lazy_layers_are_named(build):
    layer = build(8, 3) if build is nn.LazyConv2d else build()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(layer), nn.Flatten(), nn.LazyLinear(2))
    for call in (ag.plan_graft, ag.graft, ag.graft_):
        with pytest.raises(GraftError, match=r"'1\.0' \(Lazy.*has no weights .* run the model on one batch first"):
            call(model, "se", input_size=SIZE)


def test_a_lazy_first_layer_is_named():
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(2))
    for options in ({}, {"input_size": SIZE}):
        with pytest.raises(GraftError, match=r"'0' \(LazyConv2d\) has no weights before the model has run"):
            ag.plan_graft(model, "se", **options)


def test_lazy_layers_that_have_run_are_like_others():
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(2)).eval()
    x = image_batch(2, *SIZE)
    before = model(x)
    assert torch.equal(ag.graft(model, "se", where="1", input_size=SIZE)(x), before)


def test_a_module_that_refuses_is_named():
    class Single(nn.Conv2d):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is one of me")

    model = Network()
    model.body[3] = Single(8, 8, 3)
    with pytest.raises(GraftError, match=r"cannot be copied \('body\.3' is a Single: there is one of me\)"):
        ag.graft(model, "se", input_size=SIZE)


def test_copies_of_torchscript_can_be_trained():
    model = nn.Sequential(as_torchscript(nn.Conv2d(3, 4, 3), 1, *SIZE), nn.Flatten())
    model[0].bias.requires_grad_(False)
    copied = copy_model(model)
    assert [(p.is_leaf, p.requires_grad) for p in copied.parameters()] == [(True, True), (True, False)]
    copied(image_batch(1, *SIZE)).sum().backward()
    assert copied[0].weight.grad is not None
    assert model[0].weight.grad is None
