"""A model is run once in each mode before anything is written; what it returns may be wrapped; nothing of it changes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from training_helpers import PLAIN, small_model

import attngraft as ag
from attngraft.errors import BackboneError, DataError
from attngraft.surgery.model_output import described, main_output


@dataclass
class ImageClassifierOutput:
    """As `transformers` returns it."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class GoogLeNetOutputs(NamedTuple):
    logits: Tensor
    aux_logits2: Tensor | None
    aux_logits1: Tensor | None


class Wrapped(nn.Module):
    """The small model, whose head is defined before its body, with its logits in a wrapper."""

    def __init__(self, kind: str, classes: int = 3, train_only: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(16, classes)
        self.auxiliary = nn.Linear(16, 7)
        self.early = nn.Linear(16, classes)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.kind, self.train_only = kind, train_only

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        logits, other = self.fc(features), self.auxiliary(features)
        if self.train_only and not self.training:
            return logits
        wrapped = {
            "dict": {"aux": other, "logits": logits},
            "out": {"out": logits, "aux": other},
            "tuple": (logits, other),
            "transformers": ImageClassifierOutput(logits=logits, hidden_states=(features,)),
            "named tuple": GoogLeNetOutputs(logits, other, None),
            "dict without a main output": {"first": logits, "second": other},
            "list of lists": [[logits]],
            "a loss": {"loss": logits.mean()},
            "auxiliary first": (self.early(features), logits),
        }
        return wrapped[self.kind]


KINDS = ["dict", "out", "tuple", "transformers", "named tuple"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_main_output_is_taken(kind):
    model = Wrapped(kind)
    x = torch.zeros(2, 3, 16, 16)
    assert torch.equal(main_output(model(x)), model.fc(model.body(x)))
    assert main_output({"depth": x, "text": "no tensor"}) is x


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        ({"a": torch.zeros(2, 3), "b": None, "c": torch.zeros(1)}, "a dict of a (2, 3), b NoneType, c (1,)"),
        ([[torch.zeros(2)]], "a list of list"),
        ((), "a tuple"),
        (3, "a int"),
        ({str(n): n for n in range(9)}, "and 3 more"),
    ],
)
def test_what_has_no_main_output_is_described(outputs, sentence):
    with pytest.raises(BackboneError) as caught:
        main_output(outputs)
    assert sentence in str(caught.value)
    assert sentence in described(outputs)
    assert "return one tensor, or call the main one 'logits'" in str(caught.value)


@pytest.mark.parametrize("train_only", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_with_wrapped_outputs_are_trained_evaluated_and_used(tmp_path, squares, kind, train_only):
    torch.manual_seed(0)
    model = Wrapped(kind, train_only=train_only)
    result = ag.fit(model, squares, recipe="one-cycle", epochs=2, run_dir=tmp_path / "run", image_size=16, **PLAIN)
    assert len(result.evaluation.labels) == len(squares.test)
    events = json.loads((tmp_path / "run" / "run.json").read_text())["events"]
    assert ["ImageNet" in event["text"] for event in events] == [True]
    loaded = ag.load(tmp_path / "run", backbone=Wrapped(kind, train_only=train_only))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(main_output(loaded(images)), main_output(result.model(images)))


def test_the_head_phase_trains_the_layer_that_makes_the_output(tmp_path, squares):
    torch.manual_seed(0)
    model = Wrapped("dict")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = ag.training.Recipe("head", (ag.training.Phase("head", train=("head",), epochs=1, lr=0.1),), batch_size=16)
    ag.fit(model, squares, recipe=recipe, run_dir=tmp_path / "run", image_size=16, **PLAIN)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("model", "error", "sentence"),
    [
        (Wrapped("dict without a main output"), BackboneError, r"returns a dict of first \(1, 3\), second \(1, 7\): "),
        (Wrapped("list of lists", train_only=True), BackboneError, "in train mode the model returns a list of list"),
        (Wrapped("a loss", train_only=True), BackboneError, r"in train mode the model returns a tensor of shape \(\)"),
        (
            Wrapped("auxiliary first", train_only=True),
            BackboneError,
            "comes from early in train mode and from fc in eval mode, which training would not reach: return the main",
        ),
        (Wrapped("dict", classes=5), DataError, "the model has 5 logits and the data have 3 classes"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, squares, model, error, sentence):
    with pytest.raises(error, match=sentence):
        ag.fit(model, squares, run_dir=tmp_path / "run", image_size=16, **PLAIN)
    assert not (tmp_path / "run").exists()


class NeedsTargets(nn.Module):
    """As detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_model()

    def forward(self, x: Tensor, targets: Any = None) -> Tensor:
        if self.training and targets is None:
            raise ValueError("targets should not be None in training mode")
        return self.model(x)


def test_a_model_that_does_not_run_in_train_mode_is_refused(tmp_path, squares):
    with pytest.raises(DataError, match=r"on images of 16 x 16 pixels in train mode \(targets should not be None"):
        ag.fit(NeedsTargets(), squares, run_dir=tmp_path / "run", image_size=16, **PLAIN)


class Restless(nn.Module):
    """Moves a buffer and draws random numbers in every mode."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_model()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.model(x + torch.rand_like(x) + torch.rand(1, device=x.device))


def test_the_check_changes_nothing(squares, tmp_path, monkeypatch):
    fitting = sys.modules["attngraft.training.fit"]
    model, seen = Restless(), {}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check = fitting.check_fit

    def watched(*args: Any) -> Any:
        state = torch.get_rng_state()
        check(*args)
        seen["rng"] = torch.equal(torch.get_rng_state(), state)
        seen["state"] = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        seen["training"] = all(module.training for module in model.modules())
        raise InterruptedError

    monkeypatch.setattr(fitting, "check_fit", watched)
    with pytest.raises(InterruptedError):
        ag.fit(model, squares, run_dir=tmp_path / "run", image_size=16, **PLAIN)
    assert seen == {"rng": True, "state": True, "training": True}


def test_a_fit_traces_the_network_once(squares, tmp_path, monkeypatch):
    from attngraft.training import phases, preflight

    count = []
    for module in (preflight, phases):
        traced = module.trace
        monkeypatch.setattr(module, "trace", lambda *args, traced=traced: count.append(1) or traced(*args))
    ag.fit(small_model(), squares, recipe="one-cycle", epochs=1, run_dir=tmp_path / "run", image_size=16, **PLAIN)
    assert len(count) == 1
