"""Checks for third parties: they pass what keeps a contract, and name the clause that something breaks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from training_helpers import PLAIN, coloured_squares, run_fit, short_recipe, small_model

from attngraft.attention import ATTENTIONS, AttentionEntry, Gates, attentions, register
from attngraft.attention.se import SE
from attngraft.comparison import compare
from attngraft.data.targets import ClassLabels, LabelSets, Targets, Values
from attngraft.settings import DataSettings
from attngraft.tasks import TASKS, Classification, MultiLabel, Regression, Rows, mean_metric
from attngraft.testing import check_attention, check_task

RNG = np.random.default_rng(0)
NAMES = ("one", "two", "three")
CASES: list[tuple[type, Targets]] = [
    (Classification, ClassLabels(np.arange(24) % 3)),
    (MultiLabel, LabelSets((RNG.random((24, 3)) < 0.5).astype(np.uint8))),
    (Regression, Values(RNG.normal(5, 2, size=(24, 3)))),
]


@dataclass(frozen=True)
class Ordinal(Classification):
    """Classes in an order: how far off is the prediction?"""

    name: ClassVar[str] = "ordinal"
    supports: ClassVar[frozenset[Any]] = frozenset()

    @property
    def metrics(self) -> dict[str, Any]:
        def distance(rows: Rows) -> np.ndarray:
            return np.abs(rows["probabilities"].argmax(1) - rows["labels"])

        found = mean_metric(
            "distance", "distance", distance, unit="classes", higher_is_better=False, bounds=(0, np.inf)
        )
        return {"distance": found, "top1": super().metrics["top1"]}

    def criterion(self, targets: Any, options: Any) -> Any:
        return replace(super().criterion(targets, options), scores=None)


@pytest.mark.parametrize(("kind", "targets"), [*CASES, (Ordinal, CASES[0][1])])
def test_every_task_keeps_the_contract(kind: type, targets: Targets) -> None:
    check_task(kind, NAMES, targets)


class Shifted(SE):
    def apply_gates(self, x: torch.Tensor, gates: Gates) -> torch.Tensor:
        return super().apply_gates(x, gates) + 1e-3


class Greedy(SE):
    def gates(self, x: torch.Tensor) -> Gates:
        x.mul_(1.0001)
        return super().gates(x)


@pytest.mark.parametrize("name", ["se", "cbam", "static"])
def test_attentions_keep_the_contract(name: str) -> None:
    check_attention(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", attentions())
def test_every_attention_keeps_the_contract(name: str) -> None:
    check_attention(name)


@pytest.mark.parametrize(
    ("build", "clause"),
    [(Shifted, "is not the identity"), (Greedy, "changes its input in place")],
)
def test_a_broken_attention_is_named(build: type[SE], clause: str) -> None:
    register(AttentionEntry(name="broken", build=build, summary="broken", source="none"))
    try:
        with pytest.raises(AssertionError, match=f"broken.*({clause})"):
            check_attention("broken")
    finally:
        ATTENTIONS._entries.pop("broken")


def broken(**methods: Any) -> type:
    return dataclass(frozen=True)(type("Broken", (Classification,), methods))


@pytest.mark.parametrize(
    ("methods", "clause"),
    [
        ({"rows": lambda self, model, inputs: {"probabilities": np.zeros((1, 3))}}, "1 entries for 24 images"),
        ({"loss_of": lambda self, rows: float("nan")}, "loss_of is not finite"),
        ({"check": lambda self, outputs: None}, "another width"),
        ({"summary": lambda self, rows: {"images": 3}}, "says 3 images"),
        ({"readable": lambda self, rows, top: []}, "0 entries for 24"),
        ({"metrics": {}}, "no metric"),
        ({"metrics": {"x": mean_metric("y", "y", lambda rows: np.ones(24))}}, "calls itself 'y'"),
        ({"reads": "regression"}, "targets are those of 'classification'"),
    ],
)
def test_a_broken_clause_is_named(methods: dict[str, Any], clause: str) -> None:
    with pytest.raises(AssertionError, match=clause):
        check_task(broken(**methods), NAMES, CASES[0][1])


def test_a_task_from_outside_is_trained_and_compared(tmp_path: Any) -> None:
    TASKS.register("ordinal", Ordinal)
    try:
        result = run_fit(small_model(), coloured_squares(), tmp_path / "run", task="ordinal")
        assert result.evaluation.task == Ordinal(("red", "green", "blue"))
        assert "eval_distance" in result.history[0]
        found = compare(
            coloured_squares(), backbone="small-cnn", attentions=["se"], seeds=2, recipe=short_recipe(2), task="ordinal",
            run_dir=tmp_path / "comparison", **PLAIN,
        )  # fmt: skip
        assert found.document["metric"]["unit"] == "classes"
    finally:
        TASKS._entries.pop("ordinal")
    assert DataSettings().task is None
